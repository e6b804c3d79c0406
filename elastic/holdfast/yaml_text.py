"""YAML as people write specs: PyYAML's safe loader, less its traps."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import yaml

_NODES_MAX = 1_000_000
_TRAPS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp"))


class YamlError(ValueError):
    """Says what is wrong, without naming the text."""


def read_yaml(text: str) -> Any:
    """Mappings, lists, text, numbers, booleans and null; no dates.

    Raises:
        YamlError: it is not YAML, one key is given twice, or aliases (`*name`) make more of it than any spec is.
    """
    return _read(lambda: yaml.load(text, Loader=_Loader))


def read_manifests(text: str) -> list[Any]:
    """All that a file for `kubectl apply` has, `---` between them; 0440 is octal there. Raises: YamlError, as above."""
    read: list[Any] = _read(lambda: list(yaml.load_all(text, Loader=_ManifestLoader)))
    return read


def _read(load: Callable[[], Any]) -> Any:
    try:
        read = load()
    except yaml.YAMLError as error:
        raise YamlError(str(error)) from error
    except RecursionError as error:
        raise YamlError("it is nested too deeply") from error
    except (ValueError, KeyError, AttributeError) as error:  # PyYAML, of a tag such as !!int with something else
        raise YamlError(f"a value is not what its tag says, or no number that can be read ({error})") from error
    _count(read, {})
    return read


class _Loader(yaml.SafeLoader):
    """A key given twice is an error, and numbers are those of YAML 1.2.

    PyYAML reads 1.1, where 3e-4 is text, 1:30 is 90, 010 is 8, and what looks like a date is one, or an error.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # a list or mapping, which is refused below
            if key.value in seen:
                message = f"the key {key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, message, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _TRAPS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?((\.[0-9]+|[0-9][0-9_]*\.[0-9_]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(inf|Inf|INF))$"
        r"|\.(nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)


class _ManifestLoader(_Loader):
    """Kubernetes' own tools read 1.1 in this, and modes of files are written so."""


_ManifestLoader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"0o?[0-7]+$"), ["0"])


def _count(value: object, known: dict[int, int]) -> int:
    """Values in it, one that several names stand for as often as it is there."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        known[id(value)] = _NODES_MAX  # should it hold itself
        inside: Iterable[object] = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(one, known) for one in inside)
    if known[id(value)] >= _NODES_MAX:
        raise YamlError(f"aliases (*name) make {_NODES_MAX:,} values or more of it; write out what is meant")
    return known[id(value)]

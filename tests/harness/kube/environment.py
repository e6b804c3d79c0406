"""What a container's environment and arguments become: references looked up, `$(NAME)` expanded. Nothing is done."""

import base64
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

Object = dict[str, Any]
_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)")
_KEYED = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")
_SUFFIXES = {"m": Decimal("0.001"), "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12)}
_BINARY = {"Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40)}


class MissingReferenceError(Exception):
    """A Secret or ConfigMap, or a key of it, that is not there and not optional."""


class Sources:
    """The pod, what the kubelet knows of it, and the objects that it refers to: `secrets` and `configs` by name."""

    def __init__(
        self,
        pod: Object,
        *,
        known: Mapping[str, str],
        secrets: Mapping[str, Object],
        configs: Mapping[str, Object],
    ) -> None:
        self.pod, self._known = pod, known
        self._secrets, self._configs = secrets, configs

    def secret(self, reference: Mapping[str, Any]) -> dict[str, bytes]:
        """`reference` has `name` or `secretName`; empty where that is optional and not there."""
        return self._data("Secret", self._secrets, reference)

    def config(self, reference: Mapping[str, Any]) -> dict[str, bytes]:
        return self._data("ConfigMap", self._configs, reference)

    def field(self, path: str) -> str:
        """Of the downward API."""
        metadata = self.pod["metadata"]
        keyed = _KEYED.fullmatch(path)
        if keyed is not None:
            return str(metadata.get(keyed[1], {}).get(keyed[2], ""))
        if path in ("metadata.labels", "metadata.annotations"):
            pairs = metadata.get(path.partition(".")[2], {})
            return "\n".join(f'{name}="{value}"' for name, value in sorted(pairs.items()))
        if path in self._known:
            return self._known[path]
        raise ValueError(f"the test kubelet knows no field {path!r}; it knows {', '.join(sorted(self._known))}")

    def resource(self, reference: Mapping[str, Any], container: str) -> str:
        """Of `resourceFieldRef`, rounded up to whole units of its divisor."""
        name = reference.get("containerName", container)
        kind, _, resource = reference["resource"].partition(".")
        found = next(one for one in self.pod["spec"]["containers"] if one["name"] == name)
        asked = found.get("resources", {}).get(kind, {}).get(resource, "0")
        units = quantity(asked) / (quantity(str(reference.get("divisor", "1"))) or 1)
        return str(math.ceil(units))

    def _data(self, kind: str, held: Mapping[str, Object], reference: Mapping[str, Any]) -> dict[str, bytes]:
        name = reference.get("name") or reference["secretName"]
        if name not in held:
            if reference.get("optional"):
                return {}
            raise MissingReferenceError(f'{kind.lower()} "{name}" not found')
        found = held[name]
        plain = found.get("data") or {}
        coded = plain if kind == "Secret" else found.get("binaryData") or {}
        texts = {} if kind == "Secret" else plain
        return {key: base64.b64decode(value) for key, value in coded.items()} | {
            key: value.encode() for key, value in texts.items()
        }


def quantity(text: str) -> Decimal:
    """As Kubernetes writes amounts: 500m, 2Gi, 1e3."""
    for suffix, factor in {**_BINARY, **_SUFFIXES}.items():
        if text.endswith(suffix):
            return Decimal(text.removesuffix(suffix)) * factor
    return Decimal(text)


def expand(text: str, environment: Mapping[str, str]) -> str:
    """`$(NAME)` is the variable's value, or stays if there is none; `$$` is a dollar."""

    def replaced(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else environment.get(match[1], match[0])

    return _REFERENCE.sub(replaced, text)


def environment_of(container: Object, base: Mapping[str, str], sources: Sources) -> dict[str, str]:
    """Raises: MissingReferenceError."""
    environment = dict(base)
    for many in container.get("envFrom", ()):
        data = sources.secret(many["secretRef"]) if "secretRef" in many else sources.config(many["configMapRef"])
        environment |= {many.get("prefix", "") + key: value.decode() for key, value in data.items()}
    for one in container.get("env", ()):
        if "valueFrom" in one:
            value = _looked_up(one["valueFrom"], container["name"], sources)
            if value is not None:
                environment[one["name"]] = value
        else:
            environment[one["name"]] = expand(one.get("value", ""), environment)
    return environment


def arguments_of(
    container: Object, entrypoint: Sequence[str], arguments: Sequence[str], environment: Mapping[str, str]
) -> list[str]:
    """The pod's command replaces the image's entrypoint and arguments, its args only the arguments."""
    command = container.get("command") or list(entrypoint)
    given = container.get("args") or ([] if container.get("command") else list(arguments))
    return [expand(text, environment) for text in [*command, *given]]


def _looked_up(reference: Mapping[str, Any], container: str, sources: Sources) -> str | None:
    match dict(reference):
        case {"fieldRef": {"fieldPath": path}}:
            return sources.field(path)
        case {"resourceFieldRef": resource}:
            return sources.resource(resource, container)
        case {"secretKeyRef": key}:
            return _value(sources.secret(key), key, "secret")
        case {"configMapKeyRef": key}:
            return _value(sources.config(key), key, "configmap")
    raise ValueError(f"the test kubelet knows no valueFrom such as {dict(reference)}")


def _value(data: Mapping[str, bytes], reference: Mapping[str, Any], kind: str) -> str | None:
    if reference["key"] in data:
        return data[reference["key"]].decode()
    if reference.get("optional"):
        return None
    raise MissingReferenceError(f'couldn\'t find key {reference["key"]} in {kind} "{reference["name"]}"')

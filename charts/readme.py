"""Writes the table of values into the chart's README from the comments of its values.yaml: `python charts/readme.py`.

A value's comment stands right above it and is all that the table says about it; a value without one is an error.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "holdfast"
HEADING = "## Values\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    path: str  # as for --set
    default: Any
    comment: str


def values_of(text: str) -> Iterator[Value]:
    """Of a values.yaml, in its order.

    Raises:
        ValueError: a value has no comment.
    """
    lines = text.splitlines()
    for path, node in _leaves(yaml.compose(text, Loader=yaml.SafeLoader), ()):
        key, value = node
        comment = _comment_above(lines, key.start_mark.line)
        name = ".".join(path)
        if not comment:
            raise ValueError(
                f"values.yaml, line {key.start_mark.line + 1}: {name} has no comment; write what it is for"
            )
        default = yaml.SafeLoader("").construct_document(value)
        yield Value(path=name, default=default, comment=comment)


def _leaves(
    mapping: yaml.Node | None, above: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], tuple[yaml.Node, yaml.Node]]]:
    """What is not a mapping over several lines."""
    assert isinstance(mapping, yaml.MappingNode)
    for key, value in mapping.value:
        path = (*above, str(key.value))
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield from _leaves(value, path)
        else:
            yield path, (key, value)


def _comment_above(lines: list[str], line: int) -> str:
    first = line
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return " ".join(text.strip().removeprefix("#").strip() for text in lines[first:line])


def table(values: Iterator[Value]) -> str:
    rows = ["| Value | Default | What for |", "|---|---|---|"]
    rows += [f"| `{value.path}` | `{json.dumps(value.default)}` | {_cell(value.comment)} |" for value in values]
    return "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def readme(text: str, values_text: str) -> str:
    """`text` with its table made anew."""
    before, heading, _ = text.partition(HEADING)
    if not heading:
        raise ValueError(f"the README has no line {HEADING.strip()!r}; the table goes below it")
    return f"{before}{heading}\n{table(values_of(values_text))}"


def main() -> None:
    path = CHART / "README.md"
    path.write_text(readme(path.read_text(), (CHART / "values.yaml").read_text()))


if __name__ == "__main__":
    main()

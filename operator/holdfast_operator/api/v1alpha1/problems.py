"""What is wrong with a manifest, so that a person can put it right: which field, what it is, what would be right."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from holdfast.errors import UserError
from holdfast_operator.api.v1alpha1.crd import root_schema
from holdfast_operator.api.v1alpha1.schema import Schema

Path = Sequence[str | int]

_SHOWN_MAX = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Of one field."""

    field: str  # as `kubectl explain` names it: spec.nodes.max, spec.rendezvous.endpoints[0]
    given: str | None  # None: it is missing
    remedy: str

    def __str__(self) -> str:
        return f"{self.field}: " + (f"{self.given} given; " if self.given is not None else "") + self.remedy


class InvalidJobError(UserError):
    """The object is no `ElasticJob` that can be worked on; the message has a line for each problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


def problems_in(error: ValidationError, locate: Callable[[Path], Path]) -> Iterator[Problem]:
    """`locate` tells where in the manifest a field of the model lies."""
    details = error.errors(include_url=False)
    for detail in details:
        if not _is_shadow(detail, details):
            yield _problem(detail, locate(_path(detail)))


def _is_shadow(detail: ErrorDetails, details: Sequence[ErrorDetails]) -> bool:
    """pydantic calls a list too short if it lost items to errors that are told anyway."""
    depth = len(detail["loc"])
    return detail["type"] == "too_short" and any(
        len(other["loc"]) > depth and other["loc"][:depth] == detail["loc"] for other in details
    )


def _path(detail: ErrorDetails) -> Path:
    field: str = detail.get("ctx", {}).get("field", "")
    return [*detail["loc"], *(part for part in field.split(".") if part)]


def _problem(detail: ErrorDetails, path: Path) -> Problem:
    about = _schema(path).get("description", "")
    right = detail["msg"].removeprefix("Input ")
    given: str | None = _shown(detail["input"])
    if detail["type"] == "missing":
        given, right = None, "is missing"
    elif detail["type"] == "extra_forbidden":
        right = _known(path)
    elif detail["type"] == "rule":
        given, about = None, ""  # which holds between fields, whose values need not be there
    elif detail["type"] in {"model_type", "dict_type"}:
        right = "should be an object"
    elif detail["type"] == "string_pattern_mismatch":
        right = f"should match {detail['ctx']['pattern']}"
    return Problem(field=written(path), given=given, remedy=f"{right} ({about})" if about else right)


def _known(path: Path) -> str:
    known = list(_schema(path[:-1]).get("properties", {}))
    close = difflib.get_close_matches(str(path[-1]), known, n=1)
    hint = f"did you mean {written([*path[:-1], close[0]])}?" if close else f"known are {', '.join(known)}"
    return f"there is no such field; {hint}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_MAX else f"{text[: _SHOWN_MAX - 20]}... ({type(value).__name__})"


def written(path: Path) -> str:
    """As `kubectl explain` and the API server name a field."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _schema(path: Path) -> Schema:
    """Of the field at `path`; nothing is known of what lies in one that holds anything."""
    found = _root()
    for part in path:
        below = found.get("items") if isinstance(part, int) else found.get("properties", {}).get(part)
        if below is None:
            return {}
        found = below
    return found


@cache
def _root() -> Schema:
    return root_schema()

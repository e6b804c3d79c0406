"""The job spec: what `holdfast run` reads from YAML, one model for file, command line and, later, the CRD.

Only structure and cross-checks between fields live here; what needs the Program (does `block` divide its
microbatches?) is checked where the Program is known. The model stays structural (no unions of objects, no
free-form fields but `program.params`), so that its JSON schema can serve as a CRD's.
"""

from __future__ import annotations

import difflib
import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from holdfast.errors import SpecError
from holdfast.yaml_text import YamlError, read_yaml

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    f"{prefix}{suffix}": 2 ** (10 * power) for power, prefix in enumerate("KMGT", 1) for suffix in ("i", "iB")
}
_BYTES_MAX = 1 << 60
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")

Seconds = Annotated[float, Field(gt=0, le=86_400)]


def parse_bytes(value: object) -> object:
    """`8GiB`, `512Mi`, `2.5 GB` as bytes; anything but text is passed on."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    size = float(match[1]) * _UNITS.get(match[2], math.inf) if match is not None else math.inf
    if not math.isfinite(size):
        raise PydanticCustomError("memory_size", "should be a number of bytes, such as 8GiB, 512MiB or 8589934592")
    return int(size)


class _Section(BaseModel):
    """Strict, so that `steps: "40"` or `min: true` is an error and never a guess."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _require_at_least(section: _Section, name: str, field: str, lower: str) -> None:
    """Refuse a `field` of the section `name` below its field `lower`; null is no bound."""
    value, bound = getattr(section, field), getattr(section, lower)
    if value is not None and bound is not None and value < bound:
        raise PydanticCustomError(
            "order",
            "should be at least {lower}, which is {bound}",
            {"field": field, "lower": f"{name}.{lower}", "bound": bound, "input": value},
        )


class ProgramSpec(_Section):
    """Where the Program comes from."""

    entry: str = Field(
        pattern=r"^[^:]+:[A-Za-z_][A-Za-z0-9_]*$",
        description="module:function or path/file.py:function (path relative to this file)",
    )
    params: dict[str, JsonValue] = Field(default_factory=dict, description="keyword arguments of that function")


class BatchSpec(_Section):
    """How a step's samples are cut; null: as the Program says."""

    size: int | None = Field(default=None, ge=1, le=10**9, description="samples of a step, over all nodes")
    microbatch: int | None = Field(default=None, ge=1, le=10**9, description="samples that pass a stage at once")


class NodesSpec(_Section):
    """How many nodes the job may use."""

    min: int = Field(default=1, ge=1, le=10_000, description="with fewer nodes than this the job pauses")
    max: int | None = Field(default=None, ge=1, le=10_000, description="more nodes than this stand by; null: no bound")
    desired: int | None = Field(default=None, ge=1, le=10_000, description="wait for this many before the first step")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for field, lower in (("max", "desired"), ("max", "min"), ("desired", "min")):
            _require_at_least(self, "nodes", field, lower)
        return self


class LayoutSpec(_Section):
    """Wishes for the planner."""

    depth: int | None = Field(default=None, ge=1, le=10_000, description="wanted pipeline depth; null: planned")
    memory_per_slot_bytes: Annotated[int | None, BeforeValidator(parse_bytes)] = Field(
        default=None, ge=1, le=_BYTES_MAX, description="memory that a slot may use, in bytes or as 8GiB; null: no bound"
    )
    adaptive: bool = Field(
        default=True,
        description="whether it changes for slots that turn out slow, and newcomers wait where that does not pay; "
        "false: only for nodes that come and go",
    )


class TimeoutsSpec(_Section):
    """How long to wait before doubting, in seconds."""

    lease_ttl_s: Seconds = Field(default=3.0, description="a node is lost once its lease has not been renewed so long")
    probe_s: Seconds = Field(default=0.5, description="a suspected node must answer a probe within this")
    abort_s: Seconds = Field(default=5.0, description="a worker that does not answer an abort within this is killed")
    progress_s: Seconds = Field(default=120.0, description="a worker without progress for this long is killed")
    start_s: Seconds = Field(default=60.0, description="bound on forming groups and moving layers")
    join_settle_s: Seconds = Field(default=0.2, description="joins so close together become one reshape")
    start_settle_s: Seconds = Field(default=5.0, description="how long the first step waits for the desired nodes")
    orphan_s: Seconds = Field(
        default=600.0, description="a node that cannot reach the store for so long stops training: above any outage"
    )
    drain_s: Seconds = Field(default=30.0, description="deadline of a drain that names none")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        # Between two renewals of a lease, which come every third of its life, nobody may count as cut off.
        _require_at_least(self, "timeouts", "orphan_s", "lease_ttl_s")
        return self


class FailuresSpec(_Section):
    """When a failure ends the job."""

    worker_deaths_per_step: int = Field(
        default=3, ge=1, le=1_000, description="a worker that dies of itself this often at one step ends the job"
    )
    node_losses: int = Field(
        default=5, ge=1, le=1_000, description="a node that is lost this often in a short time is put into quarantine"
    )


class SnapshotsSpec(_Section):
    """Copies of the state in RAM, of its own node and of others."""

    every: int | None = Field(
        default=None, ge=0, le=10**9, description="steps from one to the next; null: as the overhead allows; 0: none"
    )
    overhead: float = Field(
        default=0.02, gt=0, le=1, description="share of the time that snapshots may cost where `every` is null"
    )
    copies: int = Field(
        default=1,
        ge=0,
        le=100,
        description="further copies of each layer in other failure domains; live replicas count",
    )
    bandwidth_bytes: Annotated[int | None, BeforeValidator(parse_bytes)] = Field(
        default=None,
        ge=1 << 20,
        le=_BYTES_MAX,
        description="what an agent may send to others a second, such as 500MB; null: no bound",
    )


class CheckpointsSpec(_Section):
    """Durable state in remote storage."""

    url: str | None = Field(
        default=None,
        min_length=1,
        description="a folder, as a path or an fsspec URL such as s3://bucket/job; null: none",
    )
    every: int = Field(default=100, ge=1, le=10**9, description="steps from one checkpoint to the next")
    keep_last: int = Field(default=3, ge=1, le=10**6, description="the newest so many are kept")
    keep_every: int | None = Field(
        default=None, ge=1, le=10**12, description="those of steps divisible by this are kept for ever; null: none"
    )
    upload_s: Seconds = Field(
        default=1800.0, description="a node's share that takes longer is given up, and so is that checkpoint"
    )
    away_s: Seconds = Field(
        default=3600.0, description="how long a restore waits for a storage that does not answer; then it has failed"
    )


class JobSpec(_Section):
    """One job."""

    name: str = Field(
        max_length=63,
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        description="a DNS label: a-z, 0-9 and '-', at most 63",
    )
    program: ProgramSpec = Field(description="where the Program comes from")
    steps: int = Field(gt=0, le=10**12, description="optimizer steps to commit")
    batch: BatchSpec = Field(default_factory=BatchSpec, description="how a step's samples are cut")
    nodes: NodesSpec = Field(default_factory=NodesSpec, description="how many nodes the job may use")
    slots_per_node: int = Field(default=1, ge=1, le=1_024, description="worker processes, one per accelerator")
    reduction: Literal["canonical", "allreduce"] = Field(
        default="canonical", description="canonical: the sum's bits do not depend on the layout; allreduce: faster"
    )
    block: int = Field(default=1, ge=1, le=10**6, description="microbatches per block, the unit of canonical reduction")
    device: Literal["cpu", "cuda", "auto"] = Field(default="cpu", description="auto: cuda where there is one")
    layout: LayoutSpec = Field(default_factory=LayoutSpec, description="wishes for the planner")
    timeouts: TimeoutsSpec = Field(default_factory=TimeoutsSpec, description="how long to wait before doubting")
    failures: FailuresSpec = Field(default_factory=FailuresSpec, description="when a failure ends the job")
    snapshots: SnapshotsSpec = Field(default_factory=SnapshotsSpec, description="copies of the state in RAM")
    checkpoints: CheckpointsSpec = Field(default_factory=CheckpointsSpec, description="durable state in remote storage")


def load_spec(path: Path, overrides: Mapping[str, Any] | None = None) -> JobSpec:
    """Read the spec at `path`, with `overrides` (dotted path -> value, from the command line) laid over it.

    Raises:
        SpecError: there is no such file, it is not YAML, or fields are wrong; the message lists every wrong one.
    """
    return parse_spec(_read_mapping(path), overrides, source=str(path))


def parse_spec(raw: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, *, source: str = "spec") -> JobSpec:
    """Validate a spec that was read already; `source` is named in errors.

    Raises:
        SpecError: fields are wrong; the message lists every wrong one.
    """
    tree: dict[str, Any] = dict(raw)
    for dotted, value in (overrides or {}).items():
        tree = _with_value(tree, dotted.split("."), value)
    # A section left empty (`nodes:`) reads as null, and means what leaving it out means.
    tree = {key: value for key, value in tree.items() if value is not None}
    try:
        return JobSpec.model_validate(tree)
    except ValidationError as error:
        problems = [_problem(detail) for detail in error.errors(include_url=False)]
        raise SpecError(f"{source} is wrong:\n" + "\n".join(f"  {problem}" for problem in problems)) from error


def _with_value(tree: Mapping[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """A copy of `tree` with `value` at `path`; what stands in the way and is no mapping is replaced."""
    head, *rest = path
    if rest:
        below = tree.get(head)
        value = _with_value(below if isinstance(below, Mapping) else {}, rest, value)
    return {**tree, head: value}


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SpecError(f"there is no file {path.absolute()}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} cannot be read: {error}") from error
    try:
        raw = read_yaml(text)
    except YamlError as error:
        raise SpecError(f"{path} is not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise SpecError(f"{path}: the top level is {type(raw).__name__}; should be a mapping of fields: `name: ...`")
    return raw


# Of what may be large, before it is cut.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother = 3, 9, 9, 99, 99, 99


def _problem(detail: ErrorDetails) -> str:
    """One line: path, value given, what would be right."""
    context: dict[str, Any] = detail.get("ctx", {})
    path = _without_tags([*detail["loc"], *([context["field"]] if "field" in context else [])])
    dotted = ".".join(str(part) for part in path)
    given = _SHORT.repr(context.get("input", detail["input"]))
    if len(given) > 80:
        given = f"{given[:60]}... ({type(detail['input']).__name__})"
    if detail["type"] == "missing":
        return f"{dotted}: missing; should be {_description(path)}"
    if detail["type"] == "extra_forbidden":
        known = list(_fields(path[:-1]))
        close = difflib.get_close_matches(str(path[-1]), known, n=1)
        return f"{dotted}: {given} given, but there is no such field; " + (
            f"did you mean {'.'.join([*map(str, path[:-1]), close[0]])}?" if close else f"known are {', '.join(known)}"
        )
    if detail["type"] in {"model_type", "model_attributes_type", "dict_type"}:
        inside = ", ".join(_fields(path)) or "name: value"
        return f"{dotted}: {given} given; should be a mapping, `{path[-1]}: {{{inside}}}` ({_description(path)})"
    if detail["loc"][-1] == "[key]":
        return f"{dotted}: {given} is no text; should be one, since it is an argument's name"
    if detail["type"] == "string_pattern_mismatch":
        return f"{dotted}: {given} given; should be {_description(path)}"
    right = detail["msg"].removeprefix("Input ")
    about = _description(path)
    return f"{dotted}: {given} given; {right}" + (f" ({about})" if about else "")


def _without_tags(path: list[int | str]) -> list[int | str]:
    """Below program.params pydantic puts the kind of each value between the keys."""
    return path if path[:2] != ["program", "params"] else [*path[:3], *path[4::2]]


def _fields(path: Sequence[int | str]) -> dict[str, FieldInfo]:
    """Fields of the section at `path`, none where there is no section."""
    model: Any = JobSpec
    for part in path:
        info = model.model_fields.get(str(part)) if isinstance(model, type) and issubclass(model, _Section) else None
        model = info.annotation if info is not None else None
    return dict(model.model_fields) if isinstance(model, type) and issubclass(model, _Section) else {}


def _description(path: Sequence[int | str]) -> str:
    info = _fields(path[:-1]).get(str(path[-1]))
    return (info.description or "") if info is not None else ""

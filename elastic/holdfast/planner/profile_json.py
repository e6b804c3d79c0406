"""A profile as JSON, for a file that `holdfast profile` writes and people may write or mend by hand."""

import json
from dataclasses import asdict, replace

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from holdfast.errors import UserError
from holdfast.model.ids import NodeId, SlotId
from holdfast.planner.profile import LayerProfile, Link, Profile

SCHEMA = 1


class _File(BaseModel):
    """Fields of `Profile`; the file's own check of each is that of the dataclass."""

    model_config = ConfigDict(extra="forbid", strict=True)

    fingerprint: str
    layers: list[LayerProfile]
    between_nodes: Link
    within_node: Link
    fixed_s: float = 0.0
    load_s: float = 0.0
    stage_s: float = 0.0
    crowded_speed: float = 1.0
    is_measured: bool = True
    speeds: dict[str, float] = Field(default_factory=dict)


def profile_to_json(profile: Profile) -> str:
    """Floats keep their bits."""
    speeds = {str(slot): speed for slot, speed in sorted(profile.speeds.items())}
    fields = asdict(replace(profile, speeds={})) | {"speeds": speeds}
    return json.dumps({"schema": SCHEMA, **fields}, indent=1, allow_nan=False) + "\n"


def profile_from_json(text: str, source: str) -> Profile:
    """`source` is named in errors.

    Raises:
        UserError: it is no profile, of another schema, or fields are wrong; the message names each.
    """
    remedy = "measure one with `holdfast profile SPEC -o FILE`"
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise UserError(f"{source} is not JSON ({error}); {remedy}") from error
    if not isinstance(tree, dict) or "schema" not in tree:
        raise UserError(f"{source}: the field schema is missing, so it is no profile; {remedy}")
    schema = tree.pop("schema")
    if schema != SCHEMA:
        raise UserError(f"{source}: schema: {schema!r} given; this Holdfast reads {SCHEMA}, so {remedy} anew")
    try:
        file = _File.model_validate_json(json.dumps(tree))
        return Profile(
            fingerprint=file.fingerprint,
            layers=tuple(file.layers),
            between_nodes=file.between_nodes,
            within_node=file.within_node,
            fixed_s=file.fixed_s,
            load_s=file.load_s,
            stage_s=file.stage_s,
            crowded_speed=file.crowded_speed,
            is_measured=file.is_measured,
            speeds={_slot(name): speed for name, speed in file.speeds.items()},
        )
    except ValidationError as error:
        problems = [_problem(detail["loc"], detail["msg"], detail["input"]) for detail in error.errors()]
        raise UserError(f"{source} is wrong; mend it, or {remedy}:\n" + "\n".join(problems)) from error
    except ValueError as error:
        raise UserError(f"{source} is wrong: {error}") from error


def _problem(path: tuple[int | str, ...], message: str, given: object) -> str:
    dotted = ".".join(map(str, path))
    shown = repr(given)
    if message == "Field required":
        return f"  {dotted}: missing"
    return f"  {dotted}: {shown if len(shown) <= 60 else shown[:57] + '...'} given; {message.removeprefix('Input ')}"


def _slot(name: str) -> SlotId:
    node, slash, index = name.rpartition("/")
    if not slash or not node or not index.isdecimal():
        raise ValueError(f"speeds: {name!r} names no slot; should be NODE/SLOT, such as node-0/1")
    return SlotId(NodeId(node), int(index))

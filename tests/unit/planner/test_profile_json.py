"""A profile's file: what is written is read, and what is wrong is named."""

import json
from typing import Any

import pytest

from holdfast.errors import UserError
from holdfast.model.ids import NodeId, SlotId
from holdfast.planner.profile import LayerProfile, Link, Profile
from holdfast.planner.profile_json import profile_from_json, profile_to_json

PROFILE = Profile(
    fingerprint="f",
    layers=(
        LayerProfile(
            name="a",
            forward_s=0.1,
            backward_s=1 / 3,
            param_bytes=4,
            state_bytes=12,
            activation_bytes=8,
            output_bytes=2,
            update_s=1e-9,
        ),
    ),
    between_nodes=Link(bytes_per_s=1e9, latency_s=1e-4),
    within_node=Link(bytes_per_s=1e10),
    fixed_s=0.01,
    load_s=0.02,
    stage_s=0.03,
    crowded_speed=0.9,
    speeds={SlotId(NodeId("node-0"), 3): 0.5},
)


def test_what_is_written_is_read() -> None:
    assert profile_from_json(profile_to_json(PROFILE), "p.json") == PROFILE


def changed(change: dict[str, Any]) -> str:
    return json.dumps(json.loads(profile_to_json(PROFILE)) | change)


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        ("{", ["p.json is not JSON", "holdfast profile"]),
        ("[]", ["schema is missing"]),
        (changed({"schema": 2}), ["schema: 2 given", "reads 1"]),
        (changed({"layers": []}), ["layers: a profile needs at least one"]),
        (changed({"fixed_s": -1}), ["fixed_s is -1"]),
        (changed({"fixed_s": "soon", "load_s": []}), ["fixed_s: 'soon' given", "load_s: [] given"]),
        (changed({"colour": 1}), ["colour: 1 given"]),
        (changed({"between_nodes": {"bytes_per_s": 0}}), ["link of 0.0 bytes/s"]),
        (changed({"speeds": {"node-0": 1.0}}), ["'node-0' names no slot", "node-0/1"]),
        (changed({"layers": [{"name": "a"}]}), ["layers.0.forward_s: missing", "layers.0.output_bytes: missing"]),
    ],
)
def test_what_is_wrong_is_named(text: str, complaints: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        profile_from_json(text, "p.json")
    for complaint in complaints:
        assert complaint in str(caught.value)

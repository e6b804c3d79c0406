"""What a profile asks the planner."""

import pytest

from holdfast.model.ids import NodeId, SlotId
from holdfast.planner.profile import LayerProfile, Link, Profile
from holdfast.planner.requesting import request_of

A, B, C = SlotId(NodeId("a"), 0), SlotId(NodeId("b"), 0), SlotId(NodeId("b"), 1)
LAYER = LayerProfile(
    name="layer",
    forward_s=1.0,
    backward_s=2.0,
    param_bytes=100,
    state_bytes=300,
    activation_bytes=7,
    output_bytes=50,
)
PROFILE = Profile(
    fingerprint="f",
    layers=(LAYER,) * 3,
    between_nodes=Link(bytes_per_s=10.0, latency_s=0.5),
    within_node=Link(bytes_per_s=100.0),
    speeds={A: 0.512, B: 1.02, SlotId(NodeId("gone"), 0): 0.1},
    load_s=0.25,
    stage_s=0.125,
)


def test_times_are_those_of_a_microbatch_and_of_the_link_between_nodes() -> None:
    request = request_of(PROFILE, slots=(A, B), blocks=1, block_size=1)

    assert request.layer_costs == (3.0,) * 3
    assert request.boundary_costs == (0.5 + 5.0,) * 3
    assert request.reduction_costs == (10.0,) * 3
    assert (request.stage_cost, request.load_cost) == (0.125, 0.25)


def test_slots_of_a_node_share_what_joins_it_to_others_when_gradients_are_reduced() -> None:
    assert request_of(PROFILE, slots=(A, B, C), blocks=1, block_size=1).reduction_costs == (20.0,) * 3


def test_within_one_node_its_own_link_counts() -> None:
    request = request_of(PROFILE, slots=(B, C), blocks=1, block_size=1)

    assert (request.boundary_costs, request.reduction_costs) == ((0.5,) * 3, (1.0,) * 3)


def test_memory_holds_state_and_the_gradients_that_canonical_reduction_keeps() -> None:
    alone = request_of(PROFILE, slots=(A, B), blocks=8, block_size=2, canonical=False)
    canonical = request_of(PROFILE, slots=(A, B), blocks=8, block_size=2)

    assert alone.layer_bytes == (300,) * 3
    assert alone.resident_bytes == (400,) * 3
    assert canonical.resident_bytes > alone.resident_bytes
    assert canonical.activation_bytes == (7,) * 3


def test_speeds_that_hardly_differ_are_one_kind() -> None:
    assert request_of(PROFILE, slots=(A, B, C), blocks=1, block_size=1).speeds == {A: pytest.approx(0.5)}


def test_wishes_are_passed_on() -> None:
    request = request_of(PROFILE, slots=(A, B), blocks=4, block_size=1, depth=2, copies=1, domains={A.node: "rack"})

    assert (request.depth, request.copies, request.domains) == (2, 1, {A.node: "rack"})

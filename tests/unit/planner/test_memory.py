"""What a stage holds."""

import pytest

from holdfast.model.ids import NodeId, SlotId
from holdfast.model.plan import Pipeline, Plan, Span, Stage
from holdfast.planner.memory import plan_bytes, stage_bytes
from holdfast.planner.profile import LayerProfile, Link, Profile

LAYERS = tuple(
    LayerProfile(
        name=name,
        forward_s=1,
        backward_s=2,
        param_bytes=100,
        state_bytes=300,
        activation_bytes=40,
        output_bytes=10,
    )
    for name in "abcd"
)


@pytest.mark.parametrize(("stage", "in_flight"), [(0, 4), (1, 3), (3, 1)])
def test_activations_are_of_as_many_microbatches_as_1f1b_has_in_flight(stage: int, in_flight: int) -> None:
    held = stage_bytes(LAYERS, Span(stage, stage + 1), stage=stage, depth=4, microbatches=8)

    assert held.activations == in_flight * 40
    assert stage_bytes(LAYERS, Span(0, 1), stage=0, depth=4, microbatches=2).activations == 2 * 40


def test_messages_are_kept_for_every_microbatch_on_both_sides_of_a_boundary() -> None:
    messages = [stage_bytes(LAYERS, Span(n, n + 1), stage=n, depth=4, microbatches=8).messages for n in range(4)]

    assert messages == [80, 160, 160, 80]
    assert stage_bytes(LAYERS, Span(0, 4), stage=0, depth=1, microbatches=8).messages == 0


def test_a_plan_is_counted_slot_by_slot_with_what_its_reduction_holds() -> None:
    slots = [SlotId(NodeId(f"node-{n}"), 0) for n in range(2)]
    plan = Plan(
        (Pipeline((Stage(slots[0], Span(0, 4)),), Span(0, 3)), Pipeline((Stage(slots[1], Span(0, 4)),), Span(3, 4)))
    )
    link = Link(bytes_per_s=1.0)
    profile = Profile(fingerprint="", layers=LAYERS, between_nodes=link, within_node=link)

    first, second = plan_bytes(plan, profile, 1)
    assert (first.state, second.state) == (1200, 1200)
    # Blocks 0 and 1 are one sum while 2 is computed.
    assert (first.gradients, second.gradients) == (800, 400)
    # Half of the one sum of the other, and half of its two.
    assert (first.exchanged, second.exchanged) == (200, 400)
    assert second.total == 1200 + 400 + 400
    assert all(held.gradients == 400 for held in plan_bytes(plan, profile, 1, canonical=False))

"""What becomes of a job on the loss of each node."""

import pytest

from holdfast.errors import NoPlanError
from holdfast.model.ids import NodeId, SlotId
from holdfast.planner.foresight import Job, foresee, move_seconds
from holdfast.planner.profile import LayerProfile, Link, Profile

BETWEEN, WITHIN = Link(bytes_per_s=100.0, latency_s=1.0), Link(bytes_per_s=1000.0)


def profile(layers: int = 4) -> Profile:
    return Profile(
        fingerprint="",
        layers=tuple(
            LayerProfile(
                name=f"layer-{n}",
                forward_s=1.0,
                backward_s=2.0,
                param_bytes=100,
                state_bytes=300,
                activation_bytes=10,
                output_bytes=0,
                update_s=0.5,
            )
            for n in range(layers)
        ),
        between_nodes=BETWEEN,
        within_node=WITHIN,
    )


def slots(nodes: int, per_node: int = 1) -> tuple[SlotId, ...]:
    return tuple(SlotId(NodeId(f"node-{n}"), index) for n in range(nodes) for index in range(per_node))


def test_each_loss_tells_copies_left_bytes_to_move_and_the_new_layout() -> None:
    told = foresee(Job(slots=slots(4), blocks=8, block_size=1, depth=2), profile())

    assert told.decision.plan.describe() == "2x2"
    assert [loss.node for loss in told.losses] == ["node-0", "node-1", "node-2", "node-3"]
    for loss in told.losses:
        assert (loss.copies_left, loss.lost) == (1, ())
        assert loss.decision is not None
        assert loss.step is not None
        assert loss.step.seconds > told.step.seconds
        assert loss.decision.moved_bytes == loss.moved_bytes
    assert any(loss.moved_bytes for loss in told.losses)
    assert all((loss.move_s > 0) == (loss.moved_bytes > 0) for loss in told.losses)


def test_layers_whose_last_copy_went_are_named() -> None:
    told = foresee(Job(slots=slots(1, 2), blocks=4, block_size=1), profile())
    (loss,) = told.losses

    assert (loss.copies_left, loss.lost, loss.decision) == (0, (0, 1, 2, 3), None)
    assert loss.reason == "no usable slot"


def test_memory_is_asked_for_with_gradients_and_activations_and_no_slot_gets_more_than_it_has() -> None:
    job = Job(slots=slots(4), blocks=4, block_size=1, memory_per_slot_bytes=1400, copies=1)

    told = foresee(job, profile())
    assert max(held.total for held in told.memory) <= 1400
    # By state alone two slots would do for all four layers.
    assert min(pipeline.depth for pipeline in told.decision.plan.pipelines) > 1
    with pytest.raises(NoPlanError):
        foresee(Job(slots=slots(1), blocks=4, block_size=1, memory_per_slot_bytes=1400), profile())


def test_moving_takes_what_the_busiest_node_sends_or_gets() -> None:
    a, b, c = slots(3)
    near = SlotId(a.node, 1)

    assert move_seconds(profile(), [(a, b, 100), (a, c, 100)], []) == pytest.approx(2 * (1 + 1))
    assert move_seconds(profile(), [(a, c, 100), (b, c, 300)], []) == pytest.approx((1 + 1) + (1 + 3))
    assert move_seconds(profile(), [(a, near, 1000), (a, b, 100)], []) == pytest.approx(2)
    assert move_seconds(profile(), [], [(a, 300), (near, 100)]) == pytest.approx(4 + 2)
    assert move_seconds(profile(), [], []) == 0

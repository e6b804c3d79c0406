"""Which layout is chosen."""

import pytest

from harness.calls import calls_of
from holdfast.errors import NoPlanError
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.plan import Plan
from holdfast.planner.search import Decision, Request, plan


def slots_of(*counts: int) -> tuple[SlotId, ...]:
    """Nodes n00, n01, ... with so many slots each."""
    return tuple(SlotId(NodeId(f"n{node:02}"), index) for node, count in enumerate(counts) for index in range(count))


def request(slots: tuple[SlotId, ...], *, layers: int = 12, depth: int | None = None, **changed: object) -> Request:
    given: dict[str, object] = {
        "slots": slots,
        "layer_costs": (1.0,) * layers,
        "layer_bytes": (100,) * layers,
        "blocks": 8,
        "block_size": 1,
        "depth": depth,
        **changed,
    }
    return Request(**given)  # type: ignore[arg-type]


def held_by(chosen: Plan) -> dict[SlotId, frozenset[int]]:
    return {stage.slot: frozenset(stage.layers) for stage in chosen.stages}


def without(decision: Decision, *nodes: str) -> dict[SlotId, frozenset[int]]:
    return {slot: layers for slot, layers in held_by(decision.plan).items() if slot.node not in nodes}


@pytest.mark.parametrize(
    ("slots", "expected"),
    [(1, "1x1"), (2, "2x1"), (3, "1x2+1x1"), (4, "2x2"), (5, "1x3+1x2"), (6, "3x2"), (7, "1x3+2x2"), (8, "4x2")],
)
def test_a_wanted_depth_of_two_yields_to_copies_and_to_idle_slots(slots: int, expected: str) -> None:
    decision = plan(request(slots_of(*[1] * slots), depth=2))

    assert decision.plan.describe() == expected
    assert decision.idle == ()
    assert decision.copies >= min(2, slots)


def test_without_a_wanted_depth_there_are_no_bubbles_where_blocks_divide() -> None:
    assert plan(request(slots_of(1, 1, 1, 1))).plan.describe() == "4x1"


def test_without_a_wanted_depth_too_few_blocks_make_deeper_pipelines() -> None:
    decision = plan(request(slots_of(1, 1, 1, 1), blocks=2, block_size=4))

    assert decision.plan.describe() == "2x2"
    assert decision.idle == ()


def test_two_nodes_with_two_slots_each_hold_one_copy_each() -> None:
    chosen = plan(request(slots_of(2, 2), depth=2)).plan

    assert [{stage.slot.node for stage in pipeline.stages} for pipeline in chosen.pipelines] == [{"n00"}, {"n01"}]


def test_unequal_nodes_get_pipelines_of_their_own_size() -> None:
    decision = plan(request(slots_of(3, 1), depth=2))

    assert decision.plan.describe() == "1x3+1x1"
    assert decision.copies == 2


def test_nodes_of_one_domain_do_not_count_as_two() -> None:
    racks = {NodeId("n00"): "rack-0", NodeId("n01"): "rack-0", NodeId("n02"): "rack-1", NodeId("n03"): "rack-1"}

    chosen = plan(request(slots_of(1, 1, 1, 1), depth=2, domains=racks)).plan

    for layer in range(chosen.layer_count):
        assert len({racks[chosen.slots[rank].node] for rank in chosen.holders(layer)}) == 2


def test_memory_is_worth_more_than_copies_and_the_decision_says_so() -> None:
    decision = plan(request(slots_of(1, 1), memory_per_slot_bytes=700))

    assert decision.plan.describe() == "1x2"
    assert decision.copies == 1
    assert any(reason.startswith("copies: 1 of each layer instead of 2; memory") for reason in decision.reasons)


def test_slots_beyond_layers_and_blocks_are_idle_and_the_decision_says_so() -> None:
    decision = plan(request(slots_of(1, 1, 1, 1), layers=1, blocks=2))

    assert decision.idle == slots_of(1, 1, 1, 1)[2:]
    assert any(reason.startswith("idle: n02/0, n03/0") for reason in decision.reasons)


def test_a_pipeline_is_never_deeper_than_its_microbatches() -> None:
    chosen = plan(request(slots_of(*[1] * 8), depth=8, blocks=3, block_size=2)).plan

    assert all(pipeline.depth <= len(pipeline.blocks) * 2 for pipeline in chosen.pipelines)


def test_a_loss_leaves_the_survivors_where_they_are() -> None:
    before = plan(request(slots_of(1, 1, 1, 1), depth=2))
    held = without(before, "n01")

    after = plan(request(tuple(held), depth=2, held=held))

    # n01 held the upper half; only the slot that now runs alone fetches what it lacks.
    assert after.plan.describe() == "1x2+1x1"
    assert after.moved_bytes == 600


def test_replanning_with_nothing_changed_moves_nothing() -> None:
    slots = slots_of(2, 2, 1, 3)
    before = plan(request(slots))

    after = plan(request(slots, held=held_by(before.plan)))

    assert after.moved_bytes == 0


def test_measured_costs_that_hardly_differ_move_no_layer() -> None:
    slots = slots_of(1, 1, 1, 1)
    before = plan(request(slots, layers=40, depth=2))
    wobbly = (1.0,) * 20 + (1.08,) * 20
    fresh = plan(request(slots, layers=40, depth=2, layer_costs=wobbly))

    after = plan(request(slots, layers=40, depth=2, layer_costs=wobbly, held=held_by(before.plan)))

    assert [stage.layers for stage in fresh.plan.stages] != [stage.layers for stage in before.plan.stages]
    assert after.moved_bytes == 0
    assert any(reason.startswith("cuts: kept") for reason in after.reasons)


def test_a_joining_node_takes_over_and_the_others_fetch_nothing() -> None:
    before = plan(request(slots_of(1, 1, 1), depth=2))

    after = plan(request(slots_of(1, 1, 1, 1), depth=2, held=held_by(before.plan)))

    assert after.plan.describe() == "2x2"
    assert after.moved_bytes == 600


def speeds(slots: tuple[SlotId, ...], *values: float) -> dict[SlotId, float]:
    return dict(zip(slots, values, strict=True))


def test_a_slow_slot_gets_fewer_layers_or_fewer_blocks() -> None:
    slots = slots_of(1, 1)
    slow = request(slots, speeds=speeds(slots, 1.0, 0.5), copies=1)

    in_line = plan(Request(**{**{name: getattr(slow, name) for name in slow.__slots__}, "blocks": 1, "block_size": 9}))
    side_by_side = plan(request(slots, speeds=speeds(slots, 1.0, 0.5), blocks=9))

    layers = {stage.slot: len(stage.layers) for stage in in_line.plan.stages}
    assert layers == {slots[0]: 8, slots[1]: 4}
    blocks = {pipeline.stages[0].slot: len(pipeline.blocks) for pipeline in side_by_side.plan.pipelines}
    assert blocks == {slots[0]: 6, slots[1]: 3}


def test_a_slot_that_only_hurts_is_idle_and_the_decision_says_so() -> None:
    slots = slots_of(1, 1, 1)

    decision = plan(request(slots, speeds=speeds(slots, 1.0, 0.01, 1.0)))

    assert decision.idle == slots[1:2]
    assert any(reason.startswith("idle: n01/0; a step with them would take longer") for reason in decision.reasons)


def test_so_is_one_of_many() -> None:
    slots = slots_of(*[1] * 20)

    assert plan(request(slots, blocks=40, speeds={slots[7]: 0.01})).idle == (slots[7],)


def test_a_small_slot_gets_fewer_layers() -> None:
    slots = slots_of(1, 1)

    chosen = plan(request(slots, copies=1, memory_per_slot_bytes=1000, memory_bytes={slots[1]: 300})).plan

    assert {stage.slot: len(stage.layers) for stage in chosen.stages}[slots[1]] <= 3


def test_uneven_depths_beat_even_ones_where_layers_do_not_divide() -> None:
    # 5 stages of 12 layers are no faster than 4.
    decision = plan(request(slots_of(*[1] * 10), memory_per_slot_bytes=300, blocks=20))

    assert decision.plan.describe() == "1x6+1x4"


def test_costly_boundaries_make_for_shallow_pipelines() -> None:
    slots = slots_of(1, 1, 1, 1)
    free = plan(request(slots, blocks=2, block_size=4))
    costly = plan(request(slots, blocks=2, block_size=4, boundary_costs=(20.0,) * 12))

    assert (free.plan.describe(), costly.plan.describe()) == ("2x2", "2x1")


def test_costly_reduction_makes_for_fewer_pipelines() -> None:
    slots = slots_of(1, 1, 1, 1)

    decision = plan(request(slots, copies=1, reduction_costs=(10.0,) * 12))

    assert decision.plan.describe() == "1x4"


def test_copies_are_given_up_one_by_one() -> None:
    # Three copies would take two slots each.
    decision = plan(request(slots_of(*[1] * 5), copies=3, memory_per_slot_bytes=700))

    assert decision.copies == 2
    assert any(reason.startswith("copies: 2 of each layer instead of 3; memory") for reason in decision.reasons)


def test_neighbouring_stages_share_a_node_while_copies_lie_apart() -> None:
    chosen = plan(request(slots_of(4, 4), memory_per_slot_bytes=300)).plan

    assert [{stage.slot.node for stage in pipeline.stages} for pipeline in chosen.pipelines] == [{"n00"}, {"n01"}]


def test_no_slot_is_refused() -> None:
    with pytest.raises(NoPlanError, match="no usable slot"):
        plan(request(()))


def test_a_model_too_large_for_all_slots_is_refused_with_the_limit() -> None:
    with pytest.raises(NoPlanError, match="memory_per_slot_bytes: 500 is too little for 12 layers of 1200 bytes"):
        plan(request(slots_of(1, 1), memory_per_slot_bytes=500))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"slots": slots_of(1) * 2}, "slots"),
        ({"layer_bytes": (1,)}, "layer_costs"),
        ({"layer_costs": (float("nan"),) * 12}, "finite"),
        ({"blocks": 0}, "blocks: 0"),
        ({"depth": 0}, "depth: 0"),
        ({"speeds": {slots_of(1)[0]: 0.0}}, "speeds: .*above 0"),
        ({"activation_bytes": (1,)}, "activation_bytes: 1 given for 12 layers"),
        ({"boundary_costs": (-1.0,) * 12}, "boundary_costs: .*not negative"),
        ({"stage_cost": -1.0}, "stage_cost: -1.0"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        request(**{"slots": slots_of(1, 1), **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("counts", "layers", "calls"), [([1] * 8, 12, 15_000), ([1] * 64, 96, 250_000), ([4] * 16, 96, 200_000)]
)
def test_planning_after_a_loss_is_a_small_part_of_recovery(counts: list[int], layers: int, calls: int) -> None:
    """About half of these calls is needed; benchmarks/planner.py has the seconds."""
    before = plan(request(slots_of(*counts), layers=layers, depth=2, blocks=64))
    held = without(before, "n03")
    after_loss = request(tuple(held), layers=layers, depth=2, blocks=64, held=held)

    assert calls_of(lambda: plan(after_loss)) < calls

"""Who sends what."""

from collections import Counter

from holdfast.model.ids import NodeId, SlotId
from holdfast.model.plan import Pipeline, Plan, Span, Stage
from holdfast.model.records import Transfer
from holdfast.planner.transition import evacuations, transfers

A0, A1, B, C, D = (
    SlotId(NodeId("a"), 0),
    SlotId(NodeId("a"), 1),
    SlotId(NodeId("b"), 0),
    SlotId(NodeId("c"), 0),
    SlotId(NodeId("d"), 0),
)
ALL = frozenset(range(4))
BYTES = (10, 10, 10, 10)


def one_stage_each(*slots: SlotId) -> Plan:
    return Plan(
        tuple(Pipeline((Stage(slot, Span(0, 4)),), Span(number, number + 1)) for number, slot in enumerate(slots))
    )


def test_only_missing_layers_move() -> None:
    held = {A0: ALL, B: frozenset({0, 1, 3})}

    moves, missing = transfers(one_stage_each(A0, B), held, held, BYTES)

    assert moves == (Transfer(layer=2, source=A0, target=B),)
    assert missing == ()


def test_sources_share_the_load_evenly() -> None:
    held = {A0: ALL, B: ALL}

    moves, _ = transfers(one_stage_each(A0, B, C), held, held, BYTES)

    assert Counter(move.source for move in moves) == {A0: 2, B: 2}


def test_a_source_that_alone_holds_a_layer_is_spared_the_others() -> None:
    held = {A0: ALL, B: frozenset({0, 1})}

    moves, _ = transfers(one_stage_each(C), {}, held, BYTES)

    assert {move.layer: move.source for move in moves} == {0: B, 1: B, 2: A0, 3: A0}


def test_a_source_on_the_targets_node_comes_first() -> None:
    held = {A0: ALL, B: ALL}
    plan = Plan((Pipeline((Stage(A1, Span(0, 1)), Stage(C, Span(1, 2))), Span(0, 1)),))

    moves, _ = transfers(plan, {}, held, BYTES)

    assert {move.target: move.source for move in moves} == {A1: A0, C: B}


def test_leaving_slots_may_send() -> None:
    moves, missing = transfers(one_stage_each(B), {}, {A0: ALL}, BYTES)

    assert [move.source for move in moves] == [A0] * 4
    assert missing == ()


def test_a_layer_that_nobody_holds_is_reported_and_not_sent() -> None:
    moves, missing = transfers(one_stage_each(A0, B), {A0: frozenset({0})}, {A0: frozenset({0})}, BYTES)

    assert moves == (Transfer(layer=0, source=A0, target=B),)
    assert missing == ((A0, 1), (A0, 2), (A0, 3), (B, 1), (B, 2), (B, 3))


def test_an_evacuation_moves_only_what_nobody_else_keeps_and_spreads_it() -> None:
    moves = evacuations({A0: frozenset({0}), B: frozenset()}, {C: ALL, D: ALL}, BYTES)

    assert [(move.layer, move.target) for move in moves] == [(1, B), (2, A0), (3, B)]
    assert {move.source for move in moves} == {C, D}


def test_with_nobody_staying_there_is_nowhere_to_evacuate_to() -> None:
    assert evacuations({}, {A0: ALL}, BYTES) == ()

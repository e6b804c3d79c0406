"""The planner's layouts are the best of all, found by trying all: sets of pipelines, orders of slots, cuts, shares."""

import pytest
from benchmarks.harness.trying_all import best_by_trying, outcome
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import NoPlanError
from holdfast.model.ids import NodeId, SlotId
from holdfast.planner.request import Request
from holdfast.planner.search import plan

COSTS = st.sampled_from([0.0, 0.1, 0.2, 1.0, 1.0, 1.0, 1.5, 3.0, 7.0])
SPEEDS = st.sampled_from([1.0, 1.0, 1.0, 0.5, 0.8, 1.25, 0.01])


@st.composite
def cases(draw: st.DrawFn, *, slots: int, layers: int, kinds: int) -> Request:
    count, layer_count = draw(st.integers(1, slots)), draw(st.integers(1, layers))
    names = tuple(SlotId(NodeId(f"n{number}"), 0) for number in range(count))
    sizes = st.lists(st.integers(1, 50), min_size=layer_count, max_size=layer_count).map(tuple)
    activations = draw(st.just(()) | st.lists(st.integers(0, 9), min_size=layer_count, max_size=layer_count).map(tuple))
    costs = st.lists(COSTS, min_size=layer_count, max_size=layer_count).map(tuple)
    layer_bytes = draw(sizes)
    room = st.integers(max(layer_bytes), 2 * sum(layer_bytes))
    drawn = draw(st.lists(st.tuples(SPEEDS, st.none() | room), min_size=1, max_size=kinds))
    kind_of = {slot: draw(st.sampled_from(drawn)) for slot in names}
    return Request(
        slots=names,
        layer_costs=draw(costs),
        layer_bytes=layer_bytes,
        blocks=draw(st.integers(1, 12)),
        block_size=draw(st.integers(1, 3)),
        speeds={slot: speed for slot, (speed, _) in kind_of.items() if speed != 1},
        memory_bytes={slot: memory for slot, (_, memory) in kind_of.items() if memory is not None},
        activation_bytes=activations,
        boundary_costs=draw(st.just(()) | costs),
        reduction_costs=draw(st.just(()) | costs),
        stage_cost=draw(st.sampled_from([0.0, 0.0, 0.1])),
        load_cost=draw(st.sampled_from([0.0, 0.0, 0.1])),
        copies=draw(st.integers(1, 3)),
    )


def check(request: Request) -> None:
    """Copies are relaxed one by one, and of what has as many as can be nothing is faster."""
    by_trying = None
    wanted = min(request.copies, len(request.slots))
    for copies in range(wanted, 0, -1):
        if by_trying := best_by_trying(request, copies):
            break
    if by_trying is None:
        with pytest.raises(NoPlanError):
            plan(request)
        return
    decision = plan(request)
    assert min(decision.copies, wanted) == copies
    assert outcome(request, decision) == by_trying


@settings(max_examples=250)
@given(cases(slots=8, layers=12, kinds=1))
def test_of_all_layouts_of_eight_equal_slots_and_twelve_layers_none_is_better(request: Request) -> None:
    check(request)


@settings(max_examples=120)
@given(cases(slots=8, layers=12, kinds=2))
def test_none_is_better_where_slots_are_of_two_kinds(request: Request) -> None:
    check(request)


@settings(max_examples=100)
@given(cases(slots=5, layers=8, kinds=5))
def test_none_is_better_where_every_slot_is_different(request: Request) -> None:
    check(request)

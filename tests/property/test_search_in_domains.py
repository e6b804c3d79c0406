"""Where slots share failure domains no layout with as many copies is better: every place for every slot is tried."""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise, product

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.model.ids import NodeId, SlotId
from holdfast.planner.cost import pipeline_time, reduction_time
from holdfast.planner.request import Request
from holdfast.planner.search import plan

Line = tuple[SlotId, ...]


def lineups(slots: Sequence[SlotId]) -> Iterator[tuple[Line, ...]]:
    """All sets of ordered pipelines over some of the slots."""
    if not slots:
        yield ()
        return
    first, rest = slots[0], slots[1:]
    for lines in lineups(rest):
        yield lines
        yield (*lines, (first,))
        for number, line in enumerate(lines):
            for at in range(len(line) + 1):
                yield (*lines[:number], (*line[:at], first, *line[at:]), *lines[number + 1 :])


def bounds(layers: int, depth: int) -> list[tuple[int, ...]]:
    return [(0, *inner, layers) for inner in combinations(range(1, layers), depth - 1)]


def best_by_trying(request: Request) -> tuple[int, int, int]:
    """(copies lacking, ticks of a step, slots that idle) of the best layout."""
    costs, layers = request.in_ticks(), len(request.layer_costs)
    wanted = min(request.copies, len({request.domains[slot.node] for slot in request.slots}))
    found = []
    for lines in lineups(request.slots):
        if not lines or any(len(line) > layers for line in lines):
            continue
        for cuts in product(*(bounds(layers, len(line)) for line in lines)):
            holders = [
                {
                    request.domains[slot.node]
                    for line, ends in zip(lines, cuts, strict=True)
                    for slot, (start, stop) in zip(line, pairwise(ends), strict=True)
                    if start <= layer < stop
                }
                for layer in range(layers)
            ]
            times = [[sum(costs.compute[start:stop]) for start, stop in pairwise(ends)] for ends in cuts]
            ticks = shared_out(request, times)
            if ticks is not None:
                largest = max(sum(costs.gradients[start:stop]) for ends in cuts for start, stop in pairwise(ends))
                idle = len(request.slots) - sum(map(len, lines))
                lacking = max(0, wanted - min(map(len, holders)))
                found.append((lacking, ticks + reduction_time(len(lines), largest), idle))
    return min(found)


def shared_out(request: Request, times: Sequence[Sequence[int]]) -> int | None:
    """The makespan where each block goes to the pipeline that is done with it first."""
    size = request.block_size
    taken = [-(-len(each) // size) for each in times]
    if sum(taken) > request.blocks:
        return None

    def time(number: int, blocks: int) -> int:
        return pipeline_time(blocks * size, sum(times[number]), max(times[number]))

    for _ in range(request.blocks - sum(taken)):
        taken[min(range(len(taken)), key=lambda number: time(number, taken[number] + 1))] += 1
    return max(time(number, blocks) for number, blocks in enumerate(taken))


@st.composite
def cases(draw: st.DrawFn) -> Request:
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4).filter(lambda counts: sum(counts) <= 5))
    slots = tuple(SlotId(NodeId(f"n{node}"), index) for node, count in enumerate(counts) for index in range(count))
    layers = draw(st.integers(1, 5))
    return Request(
        slots=slots,
        layer_costs=tuple(draw(st.lists(st.sampled_from([1.0, 1.0, 2.0, 5.0]), min_size=layers, max_size=layers))),
        layer_bytes=tuple(draw(st.lists(st.integers(1, 9), min_size=layers, max_size=layers))),
        blocks=draw(st.integers(1, 8)),
        block_size=draw(st.integers(1, 3)),
        domains={slot.node: draw(st.sampled_from([str(slot.node), "x", "y"])) for slot in slots},
        copies=draw(st.integers(1, 3)),
    )


@settings(max_examples=80)
@given(cases())
def test_of_layouts_with_as_many_copies_none_is_better(request: Request) -> None:
    decision, tick = plan(request), request.in_ticks().tick
    wanted = min(request.copies, len({request.domains[slot.node] for slot in request.slots}))

    lacking, ticks, idle = best_by_trying(request)

    assert max(0, wanted - decision.copies) == lacking
    assert (decision.step_cost, len(decision.idle)) == (ticks * tick, idle)

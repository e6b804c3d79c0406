"""The planner, against dumb implementations that try everything."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations, pairwise, permutations, product
from random import Random
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from holdfast.errors import NoPlanError
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.plan import Plan, Span
from holdfast.planner.assignment import shortest_paths
from holdfast.planner.cost import Costs
from holdfast.planner.partition import Kind, Partition
from holdfast.planner.search import KEPT_CUTS_SLACK, Request, plan
from holdfast.planner.shares import Pace, makespan, share
from holdfast.planner.shares import subtrees as subtree_count
from holdfast.planner.transition import evacuations, transfers
from holdfast.worker.trees import subtrees

K = TypeVar("K")
V = TypeVar("V")

SIZES = st.integers(1, 50)
PACES = st.builds(
    lambda depth, bottleneck, rest: Pace(depth, bottleneck, bottleneck + rest),
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(0, 20),
)
COSTS = st.sampled_from([0.0, 0.1, 0.2, 1.0, 1.0, 1.0, 1.5, 3.0, 7.0])


@st.composite
def requests(draw: st.DrawFn, *, slots_a_node: int = 3, memory: bool = True, slots_max: int = 12) -> Request:
    counts = draw(st.lists(st.integers(1, slots_a_node), min_size=1, max_size=6))
    slots = tuple(SlotId(NodeId(f"n{node}"), index) for node, count in enumerate(counts) for index in range(count))
    slots = slots[:slots_max]
    layers = draw(st.integers(1, 14))
    sizes = tuple(draw(st.lists(SIZES, min_size=layers, max_size=layers)))
    span = st.tuples(st.integers(0, layers), st.integers(0, layers)).map(lambda ends: frozenset(range(*sorted(ends))))
    return Request(
        slots=slots,
        layer_costs=tuple(draw(st.lists(COSTS, min_size=layers, max_size=layers))),
        layer_bytes=sizes,
        blocks=draw(st.integers(1, 16)),
        block_size=draw(st.integers(1, 3)),
        depth=draw(st.none() | st.integers(1, 6)),
        memory_per_slot_bytes=draw(st.none() | st.integers(1, sum(sizes) + 1)) if memory else None,
        domains=draw(st.dictionaries(st.sampled_from([slot.node for slot in slots]), st.sampled_from("xy"))),
        held=draw(st.dictionaries(st.sampled_from(slots), span)),
        copies=draw(st.integers(1, 3)),
    )


def domain_of(request: Request, slot: SlotId) -> str:
    return request.domains.get(slot.node, slot.node)


def copies_of(request: Request, chosen: Plan) -> int:
    return min(
        len({domain_of(request, chosen.slots[rank]) for rank in chosen.holders(layer)})
        for layer in range(chosen.layer_count)
    )


def partitions(layers: int, depth: int) -> Iterator[list[tuple[int, int]]]:
    for inner in combinations(range(1, layers), depth - 1):
        yield list(pairwise([0, *inner, layers]))


def moved_bytes(request: Request, chosen: Plan, slots: tuple[SlotId, ...]) -> int:
    return sum(
        request.layer_bytes[layer]
        for slot, stage in zip(slots, chosen.stages, strict=True)
        for layer in stage.layers
        if layer not in request.held.get(slot, frozenset())
    )


@settings(max_examples=400)
@given(requests())
def test_any_request_gets_a_plan_that_the_engine_can_run_or_a_true_refusal(request: Request) -> None:
    stages_max = min(len(request.slots), len(request.layer_bytes), request.blocks * request.block_size)
    try:
        decision = plan(request)
    except NoPlanError:
        limit = request.memory_per_slot_bytes
        assert limit is not None
        stages_needed, room = 1, limit
        for size in request.layer_bytes:
            if size > room:
                stages_needed, room = stages_needed + 1, limit
            room -= size
        assert max(request.layer_bytes) > limit or stages_needed > stages_max
        return

    chosen = decision.plan
    assert chosen.layer_count == len(request.layer_costs)
    assert chosen.block_count == request.blocks
    assert sorted([*chosen.slots, *decision.idle]) == list(request.slots)
    for pipeline in chosen.pipelines:
        assert len(pipeline.blocks) * request.block_size >= pipeline.depth
    if request.memory_per_slot_bytes is not None:
        for stage in chosen.stages:
            assert sum(request.layer_bytes[layer] for layer in stage.layers) <= request.memory_per_slot_bytes
    assert decision.copies == copies_of(request, chosen)
    assert decision.moved_bytes == moved_bytes(request, chosen, chosen.slots)
    assert (decision.copies < request.copies) == any(reason.startswith("copies:") for reason in decision.reasons)
    assert bool(decision.idle) == any(reason.startswith("idle:") for reason in decision.reasons)


@settings(max_examples=300)
@given(requests(memory=False, slots_a_node=5))
def test_copies_lie_in_different_domains_whenever_there_are_domains_and_blocks_for_them(request: Request) -> None:
    domains = {domain_of(request, slot) for slot in request.slots}

    assert plan(request).copies >= min(request.copies, len(domains), request.blocks)


@settings(max_examples=200)
@given(requests(memory=False, slots_a_node=1))
def test_no_slot_idles_that_layers_and_blocks_could_employ(request: Request) -> None:
    """Where reduction is free. Else a slot idles that would only be one more to send gradients to."""
    fields = {name: getattr(request, name) for name in request.__slots__}
    layers, size = len(request.layer_costs), request.block_size
    request = Request(**{**fields, "domains": {}, "reduction_costs": (0.0,) * layers})

    def employed(pipelines: int, blocks: int) -> int:
        """The most slots that so many pipelines can have."""
        if pipelines == 0:
            return 0
        rest = range(1, blocks - pipelines + 2)
        return max(min(layers, own * size) + employed(pipelines - 1, blocks - own) for own in rest)

    least = min(request.copies, len(request.slots), request.blocks)
    counts = range(least, min(len(request.slots), request.blocks, 4) + 1)
    possible = max((employed(pipelines, request.blocks) for pipelines in counts), default=0)
    assert len(plan(request).idle) <= max(0, len(request.slots) - possible)


@settings(max_examples=200)
@given(requests(slots_a_node=1, slots_max=5, memory=False))
def test_no_other_placement_of_the_same_stages_moves_fewer_bytes(request: Request) -> None:
    request = Request(**{**{name: getattr(request, name) for name in request.__slots__}, "domains": {}})
    decision = plan(request)

    others = permutations(request.slots, len(decision.plan.slots))
    assert decision.moved_bytes == min(moved_bytes(request, decision.plan, slots) for slots in others)


@settings(max_examples=150)
@given(requests(), st.randoms(use_true_random=False))
def test_the_order_in_which_facts_arrive_does_not_matter(request: Request, chance: Random) -> None:
    def shuffled(mapping: Mapping[K, V]) -> dict[K, V]:
        items = list(mapping.items())
        chance.shuffle(items)
        return dict(items)

    fields = {name: getattr(request, name) for name in request.__slots__}
    slots = list(request.slots)
    chance.shuffle(slots)
    other = Request(
        **{**fields, "slots": tuple(slots), "held": shuffled(request.held), "domains": shuffled(request.domains)}
    )
    try:
        decision = plan(request)
    except NoPlanError:
        return
    assert plan(other) == decision


@st.composite
def models(draw: st.DrawFn) -> Costs:
    layers = draw(st.integers(2, 8))

    def each(values: st.SearchStrategy[int]) -> tuple[int, ...]:
        return tuple(draw(st.lists(values, min_size=layers, max_size=layers)))

    return Costs(
        compute=each(st.integers(1, 20)),
        boundaries=each(st.sampled_from([0, 0, 3, 10])),
        gradients=each(SIZES),
        resident=each(SIZES),
        activations=each(st.integers(0, 9)),
        stage=draw(st.sampled_from([0, 2])),
        load=draw(st.sampled_from([0, 3])),
        tick=1.0,
    )


def time_of(costs: Costs, start: int, stop: int) -> int:
    before = costs.boundaries[start - 1] if start else 0
    after = costs.boundaries[stop - 1] if stop < len(costs.compute) else 0
    return sum(costs.compute[start:stop]) + before + after + costs.stage


@settings(max_examples=300)
@given(models(), st.data())
def test_cuts_are_as_good_as_the_best_of_all_that_fit_with_what_is_in_flight(costs: Costs, data: st.DataObject) -> None:
    memory = data.draw(st.none() | st.integers(1, 3 * sum(costs.resident)))
    partition = Partition(costs, [Kind(1.0, memory)], exact=False)
    for depth in range(1, len(costs.compute) + 1):
        bottlenecks = [
            max(time_of(costs, start, stop) for start, stop in cuts)
            for cuts in partitions(len(costs.compute), depth)
            if memory is None
            or all(
                sum(costs.resident[start:stop]) + (depth - stage) * sum(costs.activations[start:stop]) <= memory
                for stage, (start, stop) in enumerate(cuts)
            )
        ]
        chains = partition.chains((depth,))
        assert [chain.bottleneck for chain in chains] == ([min(bottlenecks) + costs.load] if bottlenecks else [])
        for chain in chains:
            times = [time_of(costs, span.start, span.stop) for span in chain.cuts]
            assert len(times) == depth
            assert (max(times), sum(times)) == (min(bottlenecks), chain.latency - costs.load)


@given(requests())
def test_cuts_that_are_kept_move_less_than_the_fastest_which_are_told_besides(request: Request) -> None:
    try:
        decision = plan(request)
    except NoPlanError:
        return
    fresh = plan(replace(request, held={}))
    if (swiftest := decision.swiftest) is None:
        assert not any(reason.startswith("cuts:") for reason in decision.reasons)
        return

    assert decision.moved_bytes < swiftest.moved_bytes
    assert decision.copies >= swiftest.copies
    assert swiftest.step_cost == fresh.step_cost
    assert swiftest.swiftest is None
    assert len(decision.plan.slots) == len(swiftest.plan.slots)


@settings(max_examples=200)
@given(models(), st.data())
def test_familiar_cuts_lack_least_of_all_that_are_nearly_as_fast(costs: Costs, data: st.DataObject) -> None:
    layers, sizes = len(costs.compute), costs.resident
    depth = data.draw(st.integers(1, layers))
    held = data.draw(st.lists(st.frozensets(st.integers(0, layers - 1)), min_size=1, max_size=4))
    partition = Partition(costs, [Kind(1.0, None)], exact=False)

    def lacking(cuts: list[tuple[int, int]]) -> int:
        return sum(min(sum(sizes[i] for i in range(*span) if i not in has) for has in held) for span in cuts)

    best = partition.chains((depth,))[0]
    limit = int(best.bottleneck * (1 + KEPT_CUTS_SLACK)) - costs.load
    fast = [cuts for cuts in partitions(layers, depth) if max(time_of(costs, a, b) for a, b in cuts) <= limit]
    familiar = partition.familiar(best, held, sizes, KEPT_CUTS_SLACK)
    found = [(span.start, span.stop) for span in familiar.cuts]

    assert found in fast
    assert lacking(found) == min(map(lacking, fast))


@settings(max_examples=300)
@given(
    st.lists(PACES, min_size=1, max_size=4),
    st.integers(1, 12),
    st.integers(1, 3),
)
def test_shares_finish_as_early_as_any_and_in_as_few_partial_sums(paces: list[Pace], blocks: int, size: int) -> None:
    ranked = []
    for parts in product(range(1, blocks + 1), repeat=len(paces)):
        if sum(parts) == blocks and all(n * size >= pace.depth for n, pace in zip(parts, paces, strict=True)):
            ends = [sum(parts[: index + 1]) for index in range(len(parts))]
            sums = sum(len(subtrees(blocks, Span(end - n, end))) for n, end in zip(parts, ends, strict=True))
            ranked.append((max(pace.time(n, size) for n, pace in zip(parts, paces, strict=True)), sums))
    best = makespan(Counter(paces), blocks, size)
    if not ranked:
        assert best is None
        return

    spans = share(paces, blocks, size)

    assert best == min(ranked)[0]
    assert max(pace.time(len(span), size) for span, pace in zip(spans, paces, strict=True)) == best
    assert sum(len(subtrees(blocks, span)) for span in spans) == min(ranked)[1]
    assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
    assert spans[-1].stop == blocks


@given(st.integers(1, 40), st.data())
def test_the_planner_counts_partial_sums_as_the_engine_makes_them(blocks: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, blocks - 1))
    stop = data.draw(st.integers(start + 1, blocks))

    assert subtree_count(start, stop, blocks) == len(subtrees(blocks, Span(start, stop)))


@settings(max_examples=300)
@given(st.integers(1, 8), st.integers(0, 4), st.data())
def test_our_assignment_costs_what_scipys_costs(rows: int, spare: int, data: st.DataObject) -> None:
    row = st.lists(st.integers(0, 30), min_size=rows + spare, max_size=rows + spare)
    costs = data.draw(st.lists(row, min_size=rows, max_size=rows))

    columns = shortest_paths(costs)

    best = sum(costs[r][c] for r, c in zip(*linear_sum_assignment(costs), strict=True))
    assert len(set(columns)) == rows
    assert sum(line[column] for line, column in zip(costs, columns, strict=True)) == best


@settings(max_examples=200)
@given(requests(memory=False), st.data())
def test_after_its_transfers_each_slot_has_its_layers_or_they_are_named_missing(
    request: Request, data: st.DataObject
) -> None:
    chosen = plan(request).plan
    leaver = SlotId(NodeId("leaver"), 0)
    layers = st.frozensets(st.integers(0, len(request.layer_bytes) - 1))
    sources = {**request.held, leaver: data.draw(layers)}

    moves, missing = transfers(chosen, request.held, sources, request.layer_bytes)

    after = {slot: set(request.held.get(slot, frozenset())) for slot in chosen.slots}
    load = dict.fromkeys(sources, 0)
    for move in moves:
        assert move.layer in sources[move.source]
        assert move.layer not in after[move.target]
        after[move.target].add(move.layer)
        load[move.source] += request.layer_bytes[move.layer]
    for stage in chosen.stages:
        lacking = {layer for layer in stage.layers if (stage.slot, layer) in missing}
        assert set(stage.layers) - lacking <= after[stage.slot]
        assert not any(layer in has for layer in lacking for has in sources.values())
    assert list(moves) == sorted(moves, key=lambda move: (move.layer, move.target))
    # No other source for a single transfer would let the busiest one send less.
    most = max(load.values())
    if list(load.values()).count(most) == 1:
        for move in moves:
            others = [load[slot] for slot in sources if move.layer in sources[slot] and slot != move.source]
            assert load[move.source] < most or all(o + request.layer_bytes[move.layer] >= most for o in others)


@settings(max_examples=200)
@given(st.data(), st.lists(SIZES, min_size=1, max_size=10))
def test_after_an_evacuation_no_layer_lies_on_leaving_slots_alone(data: st.DataObject, sizes: list[int]) -> None:
    layers = st.frozensets(st.integers(0, len(sizes) - 1))
    staying = {SlotId(NodeId("s"), i): data.draw(layers) for i in range(data.draw(st.integers(1, 4)))}
    leaving = {SlotId(NodeId("l"), i): data.draw(layers) for i in range(data.draw(st.integers(0, 4)))}

    moves = evacuations(staying, leaving, sizes)

    safe = frozenset().union(*staying.values())
    at_risk = frozenset().union(*leaving.values()) - safe
    assert sorted(move.layer for move in moves) == sorted(at_risk)
    assert all(move.layer in leaving[move.source] and move.target in staying for move in moves)

"""The best layout by trying all: sets of pipelines, orders of slots, cuts, shares. What the planner is held against."""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise, permutations

from holdfast.model.ids import SlotId
from holdfast.planner.cost import Costs, at_speed
from holdfast.planner.request import Request
from holdfast.planner.search import Decision

# (bottleneck, latency, largest stage's gradients) of a pipeline's stages.
Stages = tuple[int, int, int]
Kind = tuple[float, int | None]


def kind(request: Request, slot: SlotId) -> Kind:
    return request.speeds.get(slot, 1.0), request.memory_bytes.get(slot, request.memory_per_slot_bytes)


def stages(costs: Costs, kinds: Sequence[Kind], bounds: Sequence[int]) -> Stages | None:
    """What slots of these kinds make of such cuts; None where they do not fit."""
    times, gradients = [], []
    for number, (start, stop) in enumerate(pairwise(bounds)):
        speed, memory = kinds[number]
        in_flight = len(kinds) - number
        needed = sum(costs.resident[start:stop]) + in_flight * sum(costs.activations[start:stop])
        if memory is not None and needed > memory:
            return None
        crossings = (costs.boundaries[start - 1] if start else 0) + (
            costs.boundaries[stop - 1] if stop < len(costs.compute) else 0
        )
        work = sum(at_speed(ticks, speed) for ticks in costs.compute[start:stop])
        times.append(work + crossings + costs.stage)
        gradients.append(sum(costs.gradients[start:stop]))
    return max(times) + costs.load, sum(times) + costs.load, max(gradients)


def all_bounds(layers: int, depth: int) -> Iterator[tuple[int, ...]]:
    for inner in combinations(range(1, layers), depth - 1):
        yield (0, *inner, layers)


def step(request: Request, pipelines: Sequence[tuple[int, Stages]]) -> int | None:
    """Of pipelines of such depths, with the best shares: each block goes where it is done first."""
    size = request.block_size
    taken = [-(-depth // size) for depth, _ in pipelines]
    if sum(taken) > request.blocks:
        return None

    def time(number: int, blocks: int) -> int:
        bottleneck, latency, _ = pipelines[number][1]
        return latency + (blocks * size - 1) * bottleneck

    for _ in range(request.blocks - sum(taken)):
        chosen = min(range(len(taken)), key=lambda number: time(number, taken[number] + 1))
        taken[chosen] += 1
    largest = max(gradients for _, (_, _, gradients) in pipelines)
    reduced = 2 * (len(pipelines) - 1) * largest // len(pipelines)
    return max(time(number, blocks) for number, blocks in enumerate(taken)) + reduced


def partitions(items: tuple[Kind, ...]) -> set[tuple[tuple[Kind, ...], ...]]:
    """All sets of groups of some of these, as far as they differ."""
    found: set[tuple[tuple[Kind, ...], ...]] = {()}
    for item in items:
        grown = set(found)  # The item idles.
        for groups in found:
            grown.add(tuple(sorted([*groups, (item,)], key=repr)))
            for at, group in enumerate(groups):
                joined = tuple(sorted([*group, item], key=repr))
                grown.add(tuple(sorted([*groups[:at], joined, *groups[at + 1 :]], key=repr)))
        found = grown
    return found


def best_by_trying(request: Request, copies: int) -> tuple[int, int] | None:
    """The shortest step and the fewest idle slots then, where every slot is a failure domain of its own."""
    costs, layers = request.in_ticks(), len(request.layer_costs)
    known: dict[tuple[Kind, ...], list[Stages]] = {}

    def options(group: tuple[Kind, ...]) -> list[Stages]:
        if group not in known:
            found = {
                made
                for order in set(permutations(group))
                for bounds in all_bounds(layers, len(group))
                if (made := stages(costs, order, bounds))
            }
            known[group] = [
                one
                for one in found
                if not any(o != one and all(a <= b for a, b in zip(o, one, strict=True)) for o in found)
            ]
        return known[group]

    best: tuple[int, int] | None = None
    for groups in partitions(tuple(kind(request, slot) for slot in request.slots)):
        if copies <= len(groups) <= request.blocks and all(len(group) <= layers for group in groups):
            idle = len(request.slots) - sum(map(len, groups))
            for chosen in _choices([options(group) for group in groups]):
                found = step(request, [(len(group), made) for group, made in zip(groups, chosen, strict=True)])
                if found is not None and (best is None or (found, idle) < best):
                    best = found, idle
    return best


def _choices(options: Sequence[Sequence[Stages]]) -> Iterator[tuple[Stages, ...]]:
    if not options:
        yield ()
        return
    for first in options[0]:
        for rest in _choices(options[1:]):
            yield (first, *rest)


def outcome(request: Request, decision: Decision) -> tuple[int, int]:
    """Ticks of a step of what was planned, and idle slots."""
    costs, pipelines = request.in_ticks(), []
    for pipeline in decision.plan.pipelines:
        kinds = [kind(request, stage.slot) for stage in pipeline.stages]
        made = stages(costs, kinds, [0, *(stage.layers.stop for stage in pipeline.stages)])
        assert made is not None, "it fits"
        pipelines.append((pipeline.depth, made))
    found = step(request, pipelines)
    assert found is not None
    assert decision.step_cost == found * costs.tick
    slowest = max(
        latency + (len(pipeline.blocks) * request.block_size - 1) * bottleneck
        for pipeline, (_, (bottleneck, latency, _)) in zip(decision.plan.pipelines, pipelines, strict=True)
    )
    largest = max(gradients for _, (_, _, gradients) in pipelines)
    assert slowest + 2 * (len(pipelines) - 1) * largest // len(pipelines) == found, "the shares are the best too"
    return found, len(decision.idle)

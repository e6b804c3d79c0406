"""Where to cut the layers into stages: the slowest stage as fast as possible, each within the memory of its slot."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TypeAlias

from holdfast.model.plan import Span
from holdfast.planner.cost import Costs, at_speed
from holdfast.planner.shares import Pace

Cuts: TypeAlias = tuple[Span, ...]
# How many slots of each kind a pipeline has.
Team: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """Slots that are alike: how fast they are, and how many bytes they hold (None: no limit)."""

    speed: float
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Chain:
    """The stages of a pipeline, and what they cost in ticks: a step of m microbatches takes latency + (m - 1) *
    bottleneck; `largest` is what the stage with most gradients takes to send them once."""

    bottleneck: int
    latency: int
    largest: int
    cuts: Cuts
    kinds: tuple[int, ...]  # of each stage's slot

    @property
    def depth(self) -> int:
        return len(self.cuts)

    @property
    def pace(self) -> Pace:
        return Pace(self.depth, self.bottleneck, self.latency)


# Stages from some layer to the last: (bottleneck, latency, largest, squares of the stages' times, where the first stage
# stops, its kind, the stages after it). Compared as they stand, so that among equals stages are as even as can be.
_Tail: TypeAlias = "tuple[int, int, int, int, int, int, _Tail | None]"
_Row: TypeAlias = "list[tuple[_Tail, ...] | None]"


@dataclass(frozen=True, slots=True)
class _Head:
    """The first stage of a team, and the team of those after it."""

    kind: int
    rest: Team
    rest_speed: float
    reach: Sequence[int]  # how far the stage may go, by where it starts


class Partition:
    """The best cuts of one model for every team of slots.

    By dynamic programming from the last layer to the first, since of a pipeline's last j stages the first keeps the
    activations of j microbatches in flight under 1F1B, however many stages come before it.

    `exact`: all orders of a team's slots are tried, and all cuts are kept that no other beats in bottleneck, latency
    and gradients at once. Else slots stand in the order of their kinds, and the cuts of smallest bottleneck are kept.
    """

    def __init__(self, costs: Costs, kinds: Sequence[Kind], *, exact: bool):
        self.layers = len(costs.compute)
        self._kinds = tuple(kinds)
        self._work = _sums(costs.compute)
        self._compute = [_sums(at_speed(ticks, kind.speed) for ticks in costs.compute) for kind in kinds]
        self._gradients = _sums(costs.gradients)
        self._resident = _sums(costs.resident)
        self._activations = _sums(costs.activations)
        # What a stage waits for messages across the boundary before each layer; there is none at either end.
        self._crossing = [0, *costs.boundaries[:-1], 0]
        self._stage, self._load = costs.stage, costs.load
        self._never = max(sums[-1] for sums in self._compute) + 2 * sum(self._crossing) + costs.stage
        self._exact = exact
        self._reaches: dict[tuple[int, int], list[int]] = {}
        self._heads: dict[Team, list[_Head]] = {}
        self._chains: dict[Team, tuple[Chain, ...]] = {}
        nothing: _Tail = (0, 0, 0, 0, 0, 0, None)
        self._rows: dict[Team, _Row] = {(0,) * len(kinds): [*[()] * self.layers, (nothing,)]}

    def chains(self, team: Team) -> tuple[Chain, ...]:
        """Stages over such slots, the smallest bottleneck first; none where they do not fit into memory."""
        if sum(team) > self.layers:
            return ()
        if team not in self._chains:
            self._chains[team] = tuple(self._unrolled(tail) for tail in self._tails(team, 0))
        return self._chains[team]

    def chain(self, cuts: Cuts, kinds: tuple[int, ...]) -> Chain:
        """These stages."""
        times = [self._time(kind, span.start, span.stop) for kind, span in zip(kinds, cuts, strict=True)]
        largest = max(self._gradients[span.stop] - self._gradients[span.start] for span in cuts)
        return self._loaded(max(times), sum(times), largest, cuts, kinds)

    def familiar(self, chain: Chain, held: Iterable[frozenset[int]], layer_bytes: Sequence[int], slack: float) -> Chain:
        """The cuts whose stages lie closest to what slots hold, with a bottleneck at most `slack` (0.05: 5 %) above.

        "Closest" sums, over the stages, the bytes that the best-placed slot lacks; that two stages may name the same
        slot is ignored, so the caller still compares the bytes that really move.
        """
        limit, depth = int(chain.bottleneck * (1 + slack)) - self._load, chain.depth
        lacking = _Lacking(sorted(set(held), key=sorted), layer_bytes)
        # reach[l]: (bytes lacking, bottleneck, bounds) of the first l layers in as many stages as there were rounds.
        reach: dict[int, tuple[int, int, tuple[int, ...]]] = {0: (0, 0, (0,))}
        for stage, kind in enumerate(chain.kinds):
            grown: dict[int, tuple[int, int, tuple[int, ...]]] = {}
            for start, (moved, slowest, bounds) in reach.items():
                for stop in self._stops(self._reach(kind, depth - stage), start, depth - stage):
                    if self._compute[kind][stop] - self._compute[kind][start] > limit:
                        break
                    cost = self._time(kind, start, stop)
                    if cost > limit:
                        continue
                    worth, known = (moved + lacking(start, stop), max(slowest, cost)), grown.get(stop)
                    if known is None or worth <= known[:2]:
                        option = (*worth, (*bounds, stop))
                        grown[stop] = option if known is None else min(known, option)
            reach = grown
        return self.chain(_spans(reach[self.layers][2]), chain.kinds)

    def _unrolled(self, tail: _Tail) -> Chain:
        bottleneck, latency, largest = tail[:3]
        bounds, kinds = [0], []
        while (rest := tail[6]) is not None:
            bounds.append(tail[4])
            kinds.append(tail[5])
            tail = rest
        return self._loaded(bottleneck, latency, largest, _spans(bounds), tuple(kinds))

    def _loaded(self, bottleneck: int, latency: int, largest: int, cuts: Cuts, kinds: tuple[int, ...]) -> Chain:
        # All microbatches are read before the first is computed: as if each took so much longer.
        return Chain(bottleneck + self._load, latency + self._load, largest, cuts, kinds)

    def _time(self, kind: int, start: int, stop: int) -> int:
        """Ticks from one microbatch to the next: work, and one exchange with each neighbour, in which what goes either
        way crosses at once."""
        compute = self._compute[kind]
        return compute[stop] - compute[start] + self._crossing[start] + self._crossing[stop] + self._stage

    def _stops(self, reach: Sequence[int], start: int, stages: int) -> range:
        """Where the first of so many last stages may end if it starts there."""
        first = start + 1 if stages > 1 else self.layers
        return range(first, min(reach[start], self.layers - stages + 1) + 1)

    def _reach(self, kind: int, in_flight: int) -> list[int]:
        """How far a stage that starts at each layer may go for want of memory."""
        if (kind, in_flight) not in self._reaches:
            memory = self._kinds[kind].memory_bytes
            room = float("inf") if memory is None else memory
            held = [r + in_flight * a for r, a in zip(self._resident, self._activations, strict=True)]
            found, stop = [], 0
            for start in range(self.layers):
                stop = max(stop, start)
                while stop < self.layers and held[stop + 1] - held[start] <= room:
                    stop += 1
                found.append(stop)
            self._reaches[kind, in_flight] = found
        return self._reaches[kind, in_flight]

    def _heads_of(self, team: Team) -> list[_Head]:
        """The kinds that the first stage may be of; none needs to be tried but the first unless all are."""
        if team not in self._heads:
            kinds = [kind for kind, count in enumerate(team) if count]
            self._heads[team] = [
                _Head(kind, rest, _speed(rest, self._kinds), self._reach(kind, sum(team)))
                for kind in (kinds if self._exact else kinds[:1])
                for rest in [_without(team, kind)]
            ]
        return self._heads[team]

    def _tails(self, team: Team, start: int) -> tuple[_Tail, ...]:
        """The best from there on over such slots."""
        row = self._rows.get(team)
        if row is None:
            row = self._rows[team] = [None] * (self.layers + 1)
        known = row[start]
        if known is None:
            stages = sum(team)
            if stages > self.layers - start:
                known = ()
            elif self._exact:
                known = self._unbeaten(start, stages, self._heads_of(team))
            else:
                known = self._quickest(start, stages, self._heads_of(team)[0])
            row[start] = known
        return known

    def _unbeaten(self, start: int, stages: int, heads: Sequence[_Head]) -> tuple[_Tail, ...]:
        found: list[_Tail] = []
        for head in heads:
            for stop in self._stops(head.reach, start, stages):
                time = self._time(head.kind, start, stop)
                gradients = self._gradients[stop] - self._gradients[start]
                found += [_before(time, gradients, stop, head.kind, tail) for tail in self._tails(head.rest, stop)]
        found.sort()
        kept: list[_Tail] = []
        for tail in found:
            if not any(other[1] <= tail[1] and other[2] <= tail[2] for other in kept):
                kept.append(tail)
        return tuple(kept)

    def _quickest(self, start: int, stages: int, head: _Head) -> tuple[_Tail, ...]:
        """From where the first stage has its share of the work, on until it alone takes too long, then back until all
        others together would."""
        kind, rest, rest_speed = head.kind, head.rest, head.rest_speed
        stops = self._stops(head.reach, start, stages)
        speed, work = self._kinds[kind].speed, self._work
        compute, crossing = self._compute[kind], self._crossing
        base = compute[start] - crossing[start] - self._stage
        share = work[start] + (work[-1] - work[start]) * speed / (speed + rest_speed)
        middle = min(max(bisect_left(work, share), stops.start), stops.stop)
        least, ends = self._never, list[tuple[int, _Tail]]()
        for direction in (range(middle, stops.stop), range(middle - 1, stops.start - 1, -1)):
            for stop in direction:
                # Times are rounded layer by layer.
                if compute[stop] - base > least or work[-1] - work[stop] > (least + self.layers) * rest_speed:
                    break
                for tail in self._tails(rest, stop):
                    slowest = max(compute[stop] - base + crossing[stop], tail[0])
                    if slowest < least:
                        least, ends = slowest, [(stop, tail)]
                    elif slowest == least:
                        ends.append((stop, tail))
        gradients = self._gradients
        found = [
            _before(compute[stop] - base + crossing[stop], gradients[stop] - gradients[start], stop, kind, tail)
            for stop, tail in ends
        ]
        return (min(found),) if found else ()


class _Lacking:
    """Bytes of the layers [start, stop) that the best-placed holder lacks."""

    def __init__(self, held: Sequence[frozenset[int]], layer_bytes: Sequence[int]):
        self._missing = [_sums(0 if i in layers else size for i, size in enumerate(layer_bytes)) for layers in held]
        self._known: dict[tuple[int, int], int] = {}

    def __call__(self, start: int, stop: int) -> int:
        key = (start, stop)
        if key not in self._known:
            self._known[key] = min((sums[stop] - sums[start] for sums in self._missing), default=0)
        return self._known[key]


def _before(time: int, gradients: int, stop: int, kind: int, tail: _Tail) -> _Tail:
    """`tail` with one more stage before it, which ends at `stop`."""
    bottleneck, latency, largest, squares = tail[:4]
    return (
        time if time > bottleneck else bottleneck,
        time + latency,
        gradients if gradients > largest else largest,
        time * time + squares,
        stop,
        kind,
        tail,
    )


def _speed(team: Team, kinds: Sequence[Kind]) -> float:
    """Of all its slots together."""
    return sum(count * kind.speed for count, kind in zip(team, kinds, strict=True))


def _without(team: Team, kind: int) -> Team:
    return (*team[:kind], team[kind] - 1, *team[kind + 1 :])


def _sums(values: Iterable[int]) -> list[int]:
    return [0, *accumulate(values)]


def _spans(bounds: Sequence[int]) -> Cuts:
    return tuple(Span(start, stop) for start, stop in pairwise(bounds))

"""How many blocks of the batch each pipeline takes: all done as early as possible, and partial sums few."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from itertools import accumulate, pairwise
from typing import TypeAlias

from holdfast.model.plan import Span
from holdfast.planner.cost import pipeline_time

# Of the shares that reach the best makespan only those within this many blocks of a pipeline's most are compared.
_SHORTFALL_MAX = 16
# The comparison takes time with the square of the pipelines: 64 of them some 0.1 s.
_WEIGHED_PIPELINES_MAX = 64
# Of the fractions in which rates are counted.
_RATE_BITS = 96

_Ends: TypeAlias = dict[int, tuple[int, int, tuple[int, ...]]]


@dataclass(frozen=True, slots=True, order=True)
class Pace:
    """How fast a pipeline is: its depth, the ticks of its slowest stage for one microbatch, and those that a microbatch
    alone takes through all stages and back."""

    depth: int
    bottleneck: int
    latency: int

    def time(self, blocks: int, block_size: int) -> int:
        """Ticks for a step with so many blocks."""
        return pipeline_time(blocks * block_size, self.latency, self.bottleneck)

    def blocks_least(self, block_size: int) -> int:
        """1F1B needs at least as many microbatches as stages."""
        return -(-self.depth // block_size)

    def blocks_within(self, ticks: int, block_size: int) -> int:
        """The most blocks it finishes in so many ticks."""
        return ((ticks - self.latency) // self.bottleneck + 1) // block_size


def makespan(kinds: Mapping[Pace, int], blocks: int, block_size: int) -> int | None:
    """The fewest ticks in which these pipelines, so many of each pace, can do all blocks; None where there are too few
    blocks for them.

    From the time that it would take if blocks could be divided at will, which is never more, from one end of a block to
    the next.
    """
    if sum(count * pace.blocks_least(block_size) for pace, count in kinds.items()) > blocks:
        return None
    ticks = max(pace.time(pace.blocks_least(block_size), block_size) for pace in kinds)
    # Rates are rounded up, so that the time is rounded down.
    rates = {pace: -(-(count << _RATE_BITS) // (pace.bottleneck * block_size)) for pace, count in kinds.items()}
    done = (blocks << _RATE_BITS) + sum(rate * (pace.latency - pace.bottleneck) for pace, rate in rates.items())
    ticks = max(ticks, done // sum(rates.values()))
    taken = {pace: pace.blocks_within(ticks, block_size) for pace in kinds}
    missing = blocks - sum(count * taken[pace] for pace, count in kinds.items())
    ends = [(pace.time(taken[pace] + 1, block_size), pace) for pace in kinds] if missing > 0 else []
    heapify(ends)
    while missing > 0:
        ticks, pace = ends[0]
        missing -= kinds[pace]
        heapreplace(ends, (ticks + pace.bottleneck * block_size, pace))
    return ticks


def share(paces: Sequence[Pace], blocks: int, block_size: int) -> tuple[Span, ...]:
    """Each pipeline's blocks, in pipeline order, reaching `makespan`.

    Among such shares the one whose spans split into the fewest subtrees of the reduction tree, since a pipeline sends
    one partial sum for each; then the one with the least spare time lost (squares of the times). With very many
    pipelines only the spare time is weighed.
    """
    ticks = makespan(Counter(paces), blocks, block_size)
    assert ticks is not None, f"{blocks} blocks are too few for pipelines of depths {[pace.depth for pace in paces]}"
    most = [min(pace.blocks_within(ticks, block_size), blocks) for pace in paces]
    if len(paces) > _WEIGHED_PIPELINES_MAX:
        return _spans(_evened(paces, most, sum(most) - blocks, block_size))
    least = [pace.blocks_least(block_size) for pace in paces]
    spare = sum(most) - blocks
    shortfall = _SHORTFALL_MAX
    while sum(min(shortfall, upper - lower) for upper, lower in zip(most, least, strict=True)) < spare:
        shortfall *= 2  # Else no share would be left to choose.
    # ends[b]: (subtrees, squares, bounds) for the pipelines so far, which take the blocks before b.
    ends: _Ends = {0: (0, 0, (0,))}
    latest = 0
    for pace, upper, lower in zip(paces, most, least, strict=True):
        latest += upper
        takes = range(max(lower, upper - min(shortfall, spare)), upper + 1)
        stops = range(latest - spare, min(latest, blocks) + 1)  # Others would leave too many blocks, or too few.
        ends = _extend(ends, pace, takes, stops=stops, batch=(blocks, block_size))
    bounds = ends[blocks][2]
    return tuple(Span(start, stop) for start, stop in pairwise(bounds))


def _evened(paces: Sequence[Pace], most: Sequence[int], spare: int, block_size: int) -> list[int]:
    """What is left of `most` when `spare` blocks are taken away, each from the pipeline that is slowest by then."""
    takes = list(most)
    slowest = [
        (-pace.time(take, block_size), number)
        for number, (pace, take) in enumerate(zip(paces, takes, strict=True))
        if take > pace.blocks_least(block_size)
    ]
    heapify(slowest)
    for _ in range(spare):
        number = slowest[0][1]
        pace = paces[number]
        takes[number] -= 1
        if takes[number] > pace.blocks_least(block_size):
            heapreplace(slowest, (-pace.time(takes[number], block_size), number))
        else:
            heappop(slowest)
    return takes


def _spans(takes: Sequence[int]) -> tuple[Span, ...]:
    return tuple(Span(start, stop) for start, stop in pairwise([0, *accumulate(takes)]))


def subtrees(start: int, stop: int, leaves: int) -> int:
    """Partial sums that the leaves [start, stop) combine into.

    The fixed tree's node k levels up covers the leaves [i * 2**k, (i + 1) * 2**k); a level's last one may be short.
    """
    count = 0
    while start < stop:
        size = start & -start or 1 << leaves.bit_length()
        while start + size > stop and stop != leaves:
            size //= 2
        start += size
        count += 1
    return count


def _extend(ends: _Ends, pace: Pace, takes: range, *, stops: range, batch: tuple[int, int]) -> _Ends:
    """`ends` with one more pipeline that takes as many blocks as `takes` allows and ends within `stops`."""
    blocks, block_size = batch
    squares_of = {take: pace.time(take, block_size) ** 2 for take in takes}
    grown: _Ends = {}
    for start, (sums, squares, bounds) in ends.items():
        for take in takes:
            stop = start + take
            if stop not in stops:
                continue
            rank = (sums + subtrees(start, stop, blocks), squares + squares_of[take])
            if stop not in grown or (*rank, (*bounds, stop)) < grown[stop]:
                grown[stop] = (*rank, (*bounds, stop))
    return grown

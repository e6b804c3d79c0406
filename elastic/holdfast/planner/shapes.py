"""Which sets of depths to consider: how many pipelines, how deep, and whether each is bound to a group of failure
domains. Who stands in them, where slots differ, is for `staffing.py`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from holdfast.model.ids import SlotId


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds the depths of pipelines."""

    depths: tuple[int, ...]  # that fit into memory, ascending
    steep: tuple[int, ...]  # those of them worth mixing: see `steep_depths`
    blocks: int
    block_size: int

    def blocks_for(self, depth: int) -> int:
        """1F1B wants as many microbatches as stages."""
        return -(-depth // self.block_size)


# Depths in runs, deepest first: (depth, how many pipelines have it). Few, however many pipelines there are.
Runs: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Group:
    """Slots that pipelines lie wholly on. Equal to itself alone, since thousands of slots take long to compare."""

    slots: tuple[SlotId, ...]


@dataclass(frozen=True, slots=True)
class Outline:
    """Groups of slots over disjoint failure domains, and the depths of the pipelines of each. With several groups each
    adds one copy for certain."""

    groups: tuple[Group, ...]
    runs: tuple[Runs, ...]  # of each group

    @property
    def depths(self) -> tuple[int, ...]:
        """Of all pipelines, deepest first."""
        return tuple(sorted((depth for runs in self.runs for depth, n in runs for _ in range(n)), reverse=True))

    @property
    def pipelines(self) -> int:
        return sum(count for runs in self.runs for _, count in runs)

    @property
    def idle(self) -> int:
        """Slots left without a stage."""
        employed = sum(depth * count for runs in self.runs for depth, count in runs)
        return sum(len(group.slots) for group in self.groups) - employed

    @property
    def is_bound(self) -> bool:
        """Whether each pipeline must keep to its group."""
        return len(self.groups) > 1


def steep_depths(bottlenecks: Mapping[int, int]) -> tuple[int, ...]:
    """The depths at which one more stage pays most, ascending: the corners of the upper concave hull of throughput
    (1 / bottleneck) over depth.

    Layers are whole, so throughput grows in steps: of 12 equal layers 5 stages are no faster than 4. With so many slots
    a pipeline the best mix of depths is, but for what is left over, that of the two corners around that number.
    """
    hull: list[int] = []
    for depth in sorted(bottlenecks):
        while len(hull) > 1 and _gain(bottlenecks, hull[-2], depth) >= _gain(bottlenecks, hull[-2], hull[-1]):
            hull.pop()
        hull.append(depth)
    while len(hull) > 1 and bottlenecks[hull[-1]] >= bottlenecks[hull[-2]]:
        hull.pop()
    return tuple(hull)


def _gain(bottlenecks: Mapping[int, int], low: int, high: int) -> float:
    return (1 / bottlenecks[high] - 1 / bottlenecks[low]) / (high - low)


def free_outlines(group: Group, pipelines: int, limits: Limits) -> Iterator[Outline]:
    """So many pipelines anywhere, with depths as even as can be, then with those depths mixed that pay; none where they
    do not fit."""
    seen: set[Runs] = set()
    for levels in (limits.depths, limits.steep):
        runs = _spread((len(group.slots),), (pipelines,), levels, limits)
        if runs and runs[0] not in seen:
            seen.add(runs[0])
            yield Outline((group,), (runs[0],))


class Grouping:
    """Failure domains in `count` groups of about as many slots each.

    Its outlines survive the loss of `count - 1` domains, however unequal the domains are.
    """

    def __init__(self, domains: Mapping[str, tuple[SlotId, ...]], count: int, limits: Limits):
        self._groups = _grouped(domains, count)
        self._limits = limits
        self._sizes = [len(group.slots) for group in self._groups]
        self._fits = all(size >= limits.depths[0] for size in self._sizes)
        # Pipelines of each group. One more pipeline goes where it leaves the others deepest, so they only grow.
        self._counts = [[1] * count]

    def outlines(self, pipelines: int) -> Iterator[Outline]:
        """So many pipelines, each within a group, as `free_outlines` does it; none where they do not fit."""
        more = pipelines - len(self._groups)
        if not self._fits or more < 0:
            return
        while len(self._counts) <= more and (grown := self._grown(self._counts[-1])):
            self._counts.append(grown)
        if len(self._counts) <= more:
            return
        seen: set[tuple[Runs, ...]] = set()
        for levels in (self._limits.depths, self._limits.steep):
            runs = _spread(self._sizes, self._counts[more], levels, self._limits)
            if runs and runs not in seen:
                seen.add(runs)
                yield Outline(self._groups, runs)

    def _grown(self, counts: list[int]) -> list[int] | None:
        least = self._limits.depths[0]
        roomy = [group for group, size in enumerate(self._sizes) if (counts[group] + 1) * least <= size]
        if not roomy:
            return None
        chosen = max(roomy, key=lambda group: (self._sizes[group] / counts[group], -group))
        return [count + (group == chosen) for group, count in enumerate(counts)]


def _grouped(domains: Mapping[str, tuple[SlotId, ...]], count: int) -> tuple[Group, ...]:
    """Domains in `count` groups of about as many slots each: the largest first, each to the smallest group."""
    groups: list[list[SlotId]] = [[] for _ in range(count)]
    for _, slots in sorted(domains.items(), key=lambda item: (-len(item[1]), item[0])):
        min(groups, key=len).extend(slots)
    return tuple(Group(tuple(sorted(group))) for group in groups)


def _spread(
    sizes: Sequence[int], counts: Sequence[int], levels: Sequence[int], limits: Limits
) -> tuple[Runs, ...] | None:
    """Depths of `counts[g]` pipelines over `sizes[g]` slots; as few slots idle as the limits allow.

    All pipelines begin at the least depth and grow level by level, the shallowest first. A level that needs more blocks
    of microbatches is only taken while blocks last. Slots that are too few for one more pipeline's next level make one
    pipeline after another deeper by what there is.
    """
    blocks_left = limits.blocks - sum(counts) * limits.blocks_for(levels[0])
    left = [slots - count * levels[0] for slots, count in zip(sizes, counts, strict=True)]
    if blocks_left < 0 or min(left) < 0:
        return None
    found: list[dict[int, int]] = [{levels[0]: count} for count in counts]
    for level, above in pairwise(levels):
        if not any(left):
            break
        blocks = limits.blocks_for(above) - limits.blocks_for(level)
        for group, depths in enumerate(found):
            grow = min(depths.get(level, 0), left[group] // (above - level))
            if blocks:
                grow = min(grow, blocks_left // blocks)
            if grow:
                blocks_left -= grow * blocks
                left[group] -= grow * (above - level)
                depths[level] -= grow
                depths[above] = grow
    for slots, depths in zip(left, found, strict=True):
        if slots:
            blocks_left = _use_up(slots, depths, blocks_left, limits)
    return tuple(tuple(sorted(((d, n) for d, n in depths.items() if n), reverse=True)) for depths in found)


def _use_up(slots: int, depths: dict[int, int], blocks_left: int, limits: Limits) -> int:
    """Make pipelines deeper, the shallowest first, each by as much as there is; the blocks left after that."""
    for depth in sorted(depths):
        while slots and depths[depth]:
            higher = [
                above for above in limits.depths
                if depth < above <= depth + slots
                and limits.blocks_for(above) - limits.blocks_for(depth) <= blocks_left
            ]  # fmt: skip
            if not higher:
                break
            above = higher[-1]
            depths[depth] -= 1
            depths[above] = depths.get(above, 0) + 1
            slots -= above - depth
            blocks_left -= limits.blocks_for(above) - limits.blocks_for(depth)
    return blocks_left

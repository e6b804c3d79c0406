"""Which sets of pipelines to consider: how many, how deep, and whether each is bound to a group of failure domains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from holdfast.model.ids import SlotId


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds the depths of pipelines."""

    depth_least: int  # by memory
    depth_most: int  # by the number of layers
    blocks: int
    block_size: int


# Depths in runs, deepest first: (depth, how many pipelines have it). Few, however many pipelines there are.
Runs: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Slots, and the depths of the pipelines that lie wholly on them."""

    slots: tuple[SlotId, ...]
    runs: Runs

    @property
    def depths(self) -> tuple[int, ...]:
        """Of each pipeline, deepest first."""
        return tuple(depth for depth, count in self.runs for _ in range(count))


@dataclass(frozen=True, slots=True)
class Shape:
    """Groups over disjoint slots. Several groups share no failure domain, so each group adds one copy for certain."""

    groups: tuple[Group, ...]

    @property
    def runs(self) -> Runs:
        """Of all groups together."""
        counts: dict[int, int] = {}
        for group in self.groups:
            for depth, count in group.runs:
                counts[depth] = counts.get(depth, 0) + count
        return tuple(sorted(counts.items(), reverse=True))

    @property
    def depths(self) -> tuple[int, ...]:
        return tuple(depth for depth, count in self.runs for _ in range(count))

    @property
    def pipelines(self) -> int:
        return sum(count for _, count in self.runs)

    @property
    def idle(self) -> int:
        """Slots left without a stage."""
        return sum(len(group.slots) for group in self.groups) - sum(depth * count for depth, count in self.runs)


def even_shape(slots: tuple[SlotId, ...], pipelines: int, limits: Limits) -> Shape | None:
    """So many pipelines with depths as even as can be, anywhere; None where they do not fit."""
    runs = _spread((len(slots),), (pipelines,), limits)
    return Shape((Group(slots, runs[0]),)) if runs else None


class Grouping:
    """Failure domains in `count` groups of about as many slots each.

    Its shapes survive the loss of `count - 1` domains, however unequal the domains are.
    """

    def __init__(self, domains: Mapping[str, tuple[SlotId, ...]], count: int, limits: Limits):
        self._groups = _grouped(domains, count)
        self._limits = limits
        self._sizes = [len(group) for group in self._groups]
        self._fits = all(size >= limits.depth_least for size in self._sizes)
        # Pipelines of each group. One more pipeline goes where it leaves the others deepest, so they only grow.
        self._counts = [[1] * count]

    def shape(self, pipelines: int) -> Shape | None:
        """So many pipelines, each within a group, with depths as even as can be; None where they do not fit."""
        more = pipelines - len(self._groups)
        if not self._fits or more < 0:
            return None
        while len(self._counts) <= more and (grown := self._grown(self._counts[-1])):
            self._counts.append(grown)
        if len(self._counts) <= more:
            return None
        runs = _spread(self._sizes, self._counts[more], self._limits)
        return Shape(tuple(map(Group, self._groups, runs))) if runs else None

    def _grown(self, counts: list[int]) -> list[int] | None:
        least = self._limits.depth_least
        roomy = [group for group, size in enumerate(self._sizes) if (counts[group] + 1) * least <= size]
        if not roomy:
            return None
        chosen = max(roomy, key=lambda group: (self._sizes[group] / counts[group], -group))
        return [count + (group == chosen) for group, count in enumerate(counts)]


def _grouped(domains: Mapping[str, tuple[SlotId, ...]], count: int) -> list[tuple[SlotId, ...]]:
    """Domains in `count` groups of about as many slots each: the largest first, each to the smallest group."""
    groups: list[list[SlotId]] = [[] for _ in range(count)]
    for _, slots in sorted(domains.items(), key=lambda item: (-len(item[1]), item[0])):
        min(groups, key=len).extend(slots)
    return [tuple(sorted(group)) for group in groups]


def _spread(sizes: Sequence[int], counts: Sequence[int], limits: Limits) -> list[Runs] | None:
    """Depths of `counts[g]` pipelines over `sizes[g]` slots; as few slots idle as the limits allow.

    All pipelines begin at the least depth and grow level by level, the shallowest first. A level that needs one more
    block of microbatches (1F1B wants as many as stages) is only taken while blocks last.
    """
    least, size = limits.depth_least, limits.block_size
    left = [slots - count * least for slots, count in zip(sizes, counts, strict=True)]
    blocks_left = limits.blocks - sum(counts) * -(-least // size)
    if blocks_left < 0 or min(left) < 0:
        return None
    growing = list(counts)
    done: list[list[tuple[int, int]]] = [[] for _ in sizes]
    for level in range(least, limits.depth_most):
        for group, slots_left in enumerate(left):
            grow = min(growing[group], slots_left)
            if level % size == 0:
                grow = min(grow, blocks_left)
                blocks_left -= grow
            left[group] -= grow
            done[group].append((level, growing[group] - grow))
            growing[group] = grow
    ended = [[*runs, (limits.depth_most, rest)] for runs, rest in zip(done, growing, strict=True)]
    return [tuple(run for run in reversed(runs) if run[1]) for runs in ended]

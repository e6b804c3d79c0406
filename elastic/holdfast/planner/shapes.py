"""Which sets of pipelines to consider: how many, how deep, and whether each is bound to a group of failure domains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holdfast.model.ids import SlotId


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds the depths of pipelines."""

    depth_least: int  # by memory
    depth_most: int  # by the number of layers
    blocks: int
    block_size: int


@dataclass(frozen=True, slots=True)
class Group:
    """Slots, and the depths of the pipelines that lie wholly on them, deepest first."""

    slots: tuple[SlotId, ...]
    depths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """Groups over disjoint slots. Several groups share no failure domain, so each group adds one copy for certain."""

    groups: tuple[Group, ...]

    @property
    def depths(self) -> tuple[int, ...]:
        return tuple(sorted((depth for group in self.groups for depth in group.depths), reverse=True))

    @property
    def idle(self) -> int:
        """Slots left without a stage."""
        return sum(len(group.slots) for group in self.groups) - sum(self.depths)


def even_shape(slots: Sequence[SlotId], pipelines: int, limits: Limits) -> Shape | None:
    """So many pipelines with depths as even as can be, anywhere; None where they do not fit."""
    depths = _spread((len(slots),), (pipelines,), limits)
    return Shape((Group(tuple(slots), depths[0]),)) if depths else None


def grouped_shape(
    domains: Mapping[str, tuple[SlotId, ...]], group_count: int, pipelines: int, limits: Limits
) -> Shape | None:
    """The same, bound to `group_count` groups of domains; None where they do not fit.

    Always survives the loss of `group_count - 1` domains, however unequal the domains are.
    """
    groups = _grouped(domains, group_count)
    shares = _pipelines_of([len(group) for group in groups], pipelines, limits.depth_least)
    depths = _spread([len(group) for group in groups], shares, limits) if shares else None
    return Shape(tuple(map(Group, groups, depths))) if depths else None


def _grouped(domains: Mapping[str, tuple[SlotId, ...]], count: int) -> list[tuple[SlotId, ...]]:
    """Domains in `count` groups of about as many slots each: the largest first, each to the smallest group."""
    groups: list[list[SlotId]] = [[] for _ in range(count)]
    for _, slots in sorted(domains.items(), key=lambda item: (-len(item[1]), item[0])):
        min(groups, key=len).extend(slots)
    return [tuple(sorted(group)) for group in groups]


def _pipelines_of(sizes: Sequence[int], pipelines: int, depth_least: int) -> list[int] | None:
    """Pipelines of each group, so that their depths come out as even as can be."""
    counts = [1] * len(sizes)
    if pipelines < len(sizes) or any(size < depth_least for size in sizes):
        return None
    for _ in range(pipelines - len(sizes)):
        open_groups = [group for group, size in enumerate(sizes) if (counts[group] + 1) * depth_least <= size]
        if not open_groups:
            return None
        counts[max(open_groups, key=lambda group: (sizes[group] / counts[group], -group))] += 1
    return counts


def _spread(sizes: Sequence[int], counts: Sequence[int], limits: Limits) -> list[tuple[int, ...]] | None:
    """Depths of `counts[g]` pipelines over `sizes[g]` slots, deepest first; as few slots idle as the limits allow.

    All pipelines begin at the least depth and grow level by level, the shallowest first. A level that needs one more
    block of microbatches (1F1B wants as many as stages) is only taken while blocks last.
    """
    least, size = limits.depth_least, limits.block_size
    left = [slots - count * least for slots, count in zip(sizes, counts, strict=True)]
    blocks_left = limits.blocks - sum(counts) * -(-least // size)
    if blocks_left < 0 or min(left) < 0:
        return None
    growing = list(counts)
    done: list[list[int]] = [[] for _ in sizes]
    for level in range(least, limits.depth_most):
        for group, slots_left in enumerate(left):
            grow = min(growing[group], slots_left)
            if level % size == 0:
                grow = min(grow, blocks_left)
                blocks_left -= grow
            left[group] -= grow
            done[group] += [level] * (growing[group] - grow)
            growing[group] = grow
    return [tuple(reversed([*depths, *[limits.depth_most] * rest])) for depths, rest in zip(done, growing, strict=True)]

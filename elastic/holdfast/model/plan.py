"""The plan: which slot runs which layers, and which blocks of the batch each pipeline takes.

Rank order is pipeline by pipeline, stage by stage; everyone derives ranks from the plan alone.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from holdfast.model.ids import NodeId, SlotId


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Half-open range [start, stop) of layers, blocks or microbatches."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop <= sys.maxsize:  # which is what a length may be
            raise ValueError(f"span [{self.start}, {self.stop}) must have 0 <= start <= stop <= {sys.maxsize}")

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))

    def __contains__(self, item: int) -> bool:
        return self.start <= item < self.stop


@dataclass(frozen=True, slots=True)
class Stage:
    """Contiguous layers on one slot."""

    slot: SlotId
    layers: Span


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Stages that hold the whole model once, in order, and the blocks of every global batch they compute."""

    stages: tuple[Stage, ...]
    blocks: Span

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("a pipeline needs at least one stage")

    @property
    def depth(self) -> int:
        return len(self.stages)


@dataclass(frozen=True, slots=True)
class Segment:
    """A maximal run of layers held by the same ranks; the unit of gradient reduction. One rank a pipeline."""

    layers: Span
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """Pipelines of one generation. Every pipeline covers all layers; together they cover all blocks, once."""

    pipelines: tuple[Pipeline, ...]

    def __post_init__(self) -> None:
        if not self.pipelines:
            raise ValueError("a plan needs at least one pipeline")
        layers_end = {pipeline.stages[-1].layers.stop for pipeline in self.pipelines}
        if len(layers_end) != 1:
            raise ValueError(f"pipelines end at different layers: {sorted(layers_end)}")
        for pipeline in self.pipelines:
            _check_adjacent([stage.layers for stage in pipeline.stages], "layers")
        _check_adjacent([pipeline.blocks for pipeline in self.pipelines], "blocks")
        if len(set(self.slots)) != len(self.slots):
            raise ValueError(f"a slot is used twice: {[str(slot) for slot in self.slots]}")

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """All stages in rank order."""
        return tuple(stage for pipeline in self.pipelines for stage in pipeline.stages)

    @cached_property
    def slots(self) -> tuple[SlotId, ...]:
        """Slots in rank order; a slot's position is its rank."""
        return tuple(stage.slot for stage in self.stages)

    @property
    def layer_count(self) -> int:
        return self.pipelines[0].stages[-1].layers.stop

    @property
    def block_count(self) -> int:
        return self.pipelines[-1].blocks.stop

    @cached_property
    def nodes(self) -> frozenset[NodeId]:
        return frozenset(slot.node for slot in self.slots)

    def rank_of(self, slot: SlotId) -> int:
        return self.slots.index(slot)

    def layers_of(self, slot: SlotId) -> Span:
        return self.stages[self.rank_of(slot)].layers

    def locate(self, rank: int) -> tuple[int, int]:
        """(pipeline, stage) of `rank`."""
        for number, pipeline in enumerate(self.pipelines):
            if rank < pipeline.depth:
                return number, rank
            rank -= pipeline.depth
        raise IndexError(f"rank {rank} is beyond the plan")

    def holders(self, layer: int) -> tuple[int, ...]:
        """Ranks that hold `layer`, one a pipeline, ascending."""
        return tuple(rank for rank, stage in enumerate(self.stages) if layer in stage.layers)

    @cached_property
    def nodes_by_layer(self) -> dict[int, tuple[NodeId, ...]]:
        """The nodes that hold each layer, pipeline by pipeline; one that holds it twice is there twice."""
        slots = self.slots
        return {n: tuple(slots[rank].node for rank in self.holders(n)) for n in range(self.layer_count)}

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """Runs of layers with the same holders, in layer order; the same on every rank."""
        cuts = sorted({0, self.layer_count} | {stage.layers.start for stage in self.stages})
        return tuple(Segment(Span(start, stop), self.holders(start)) for start, stop in pairwise(cuts))

    @cached_property
    def reduction_order(self) -> tuple[Segment, ...]:
        """Segments in the order in which everyone reduces them: in rounds, whose segments share no rank.

        In layer order one segment would wait for the one before it wherever two share a rank, and with pipelines of
        different depth all of them would make one chain, as long as the model.
        """
        rounds: list[int] = []
        taken: dict[int, set[int]] = {}  # by rank, the rounds of its segments so far
        for segment in self.segments:
            busy = set[int]().union(*(taken.setdefault(rank, set()) for rank in segment.ranks))
            rounds.append(next(number for number in range(len(busy) + 1) if number not in busy))
            for rank in segment.ranks:
                taken[rank].add(rounds[-1])
        order = sorted(range(len(rounds)), key=lambda number: (rounds[number], number))
        return tuple(self.segments[number] for number in order)

    def describe(self) -> str:
        """Short form for people: pipelines x depth, deepest first, such as "2x3+1x2"."""
        depths = sorted((pipeline.depth for pipeline in self.pipelines), reverse=True)
        return "+".join(f"{depths.count(depth)}x{depth}" for depth in sorted(set(depths), reverse=True))


def _check_adjacent(spans: list[Span], what: str) -> None:
    if spans[0].start != 0 or any(a.stop != b.start for a, b in pairwise(spans)):
        raise ValueError(f"{what} must begin at 0 and leave no gap: {[(s.start, s.stop) for s in spans]}")
    if not all(len(span) for span in spans):
        raise ValueError(f"{what} has an empty span: {[(s.start, s.stop) for s in spans]}")

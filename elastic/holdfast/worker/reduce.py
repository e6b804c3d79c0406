"""Sums the gradients of a step over all ranks that hold a layer, and makes them ready for the commit.

canonical: along the fixed block tree, so that the bits do not depend on the layout. Each rank of a segment owns a
chunk of its flat gradient: partial sums travel to the chunk's owner, are combined there in tree order, and the
result travels back (a reduce-scatter and an all-gather whose order of summation is ours).
allreduce: the backend's own all-reduce, whose order is unspecified.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from holdfast.model.plan import Plan, Segment, Span
from holdfast.program import Program
from holdfast.worker.comm import WORLD, Comm
from holdfast.worker.gradients import BlockSums, add_all, flat_layouts
from holdfast.worker.layers import HeldLayer
from holdfast.worker.process_groups import Message
from holdfast.worker.ties import Ties
from holdfast.worker.trees import combine, even_cuts, subtrees


def segment_group(segment: Segment) -> str:
    return "segment-" + "-".join(map(str, segment.ranks))


@dataclass(frozen=True, slots=True)
class _Share:
    """This rank's gradients of one dtype of one segment. `position`: of this rank among the segment's."""

    segment: Segment
    position: int
    sums: BlockSums

    @property
    def is_alone(self) -> bool:
        return len(self.segment.ranks) == 1

    def chunks(self) -> Sequence[Span]:
        """What of the flat gradient each rank of the segment sums."""
        return even_cuts(self.sums.layout.total, len(self.segment.ranks), self.sums.layout.step)


class Reducer:
    """Gradients of one worker in one generation."""

    def __init__(
        self, comm: Comm, program: Program, plan: Plan, rank: int, layers: Sequence[HeldLayer], *, canonical: bool
    ) -> None:
        self._comm, self._plan, self._rank, self._canonical = comm, plan, rank, canonical
        self._block_size = program.microbatches // plan.block_count
        held = {layer.index: layer for layer in layers}
        self._shares = [
            _Share(segment, segment.ranks.index(rank), BlockSums(layout, plan.block_count))
            for segment in plan.segments
            if rank in segment.ranks
            for layout in flat_layouts(held[index] for index in segment.layers)
        ]
        self._ties = Ties(comm, program, plan, rank, held)

    def begin(self) -> None:
        """Before the first backward of a step."""
        for share in self._shares:
            share.sums.begin()

    def microbatch_done(self, microbatch: int) -> None:
        """The backward of a (global) microbatch is over; the schedule runs them in ascending order."""
        if self._canonical and (microbatch + 1) % self._block_size == 0:
            for share in self._shares:
                share.sums.end_block(microbatch // self._block_size)

    def reduce(self) -> None:
        """After the last backward: afterwards every `.grad` is the sum over the global batch. Collective.

        Raises:
            CommunicationError: a peer was lost; gradients are of no use then.
        """
        if self._canonical:
            self._reduce_canonical()
        else:
            self._reduce_fast()
        self._ties.sum()

    def _reduce_fast(self) -> None:
        for share in self._shares:
            layout = share.sums.layout
            gradients = layout.take()
            if not share.is_alone:
                flat = layout.flatten(gradients)
                self._comm.all_reduce(segment_group(share.segment), flat)
                gradients = layout.views(flat)
            share.sums.settle(gradients)

    def _reduce_canonical(self) -> None:
        shared = []
        for share in self._shares:
            if share.is_alone:
                share.sums.settle(combine(self._plan.block_count, dict(share.sums.parts), add_all))
            else:
                shared.append((share, self._flat_parts(share)))
        inboxes = self._scatter(shared)
        totals = [self._sum_chunk(share, parts, inbox) for (share, parts), inbox in zip(shared, inboxes, strict=True)]
        self._gather([share for share, _ in shared], totals)
        for (share, _), total in zip(shared, totals, strict=True):
            share.sums.settle(share.sums.layout.views(total))

    def _flat_parts(self, share: _Share) -> dict[Span, Tensor]:
        """This rank's subtrees, flat; each is let go of as soon as it is copied."""
        flats: dict[Span, Tensor] = {}
        while share.sums.parts:
            node, gradients = share.sums.parts.pop()
            flats[node] = share.sums.layout.flatten(gradients)
        return dict(sorted(flats.items()))

    def _scatter(self, shared: Sequence[tuple[_Share, dict[Span, Tensor]]]) -> list[dict[Span, Tensor]]:
        """Send every other rank its chunk of this rank's subtrees; what came for this rank's chunk, by subtree."""
        sends: list[Message] = []
        receives: list[Message] = []
        inboxes: list[dict[Span, Tensor]] = []
        for share, parts in shared:
            inbox: dict[Span, Tensor] = {}
            chunks = share.chunks()
            for position, peer in enumerate(share.segment.ranks):
                if peer != self._rank:
                    sends += [(peer, part[_slice(chunks[position])]) for part in parts.values()]
                    for node in self._subtrees_of(peer):
                        inbox[node] = share.sums.layout.empty(len(chunks[share.position]))
                        receives.append((peer, inbox[node]))
            inboxes.append(inbox)
        self._comm.exchange(WORLD, sends, receives)
        return inboxes

    def _sum_chunk(self, share: _Share, parts: dict[Span, Tensor], inbox: dict[Span, Tensor]) -> Tensor:
        """A flat tensor of which this rank's chunk is the sum over all blocks, in the order of the tree."""
        mine = _slice(share.chunks()[share.position])
        here = {node: part[mine] for node, part in parts.items()}
        total = combine(self._plan.block_count, inbox | here, lambda left, right: left.add_(right))
        flat = next(iter(parts.values()))
        if total.data_ptr() != flat[mine].data_ptr():
            flat[mine].copy_(total)
        return flat

    def _gather(self, shares: Sequence[_Share], totals: Sequence[Tensor]) -> None:
        """Everyone gets everyone's chunk, in place."""
        sends: list[Message] = []
        receives: list[Message] = []
        for share, flat in zip(shares, totals, strict=True):
            chunks = share.chunks()
            for position, peer in enumerate(share.segment.ranks):
                if peer != self._rank:
                    sends.append((peer, flat[_slice(chunks[share.position])]))
                    receives.append((peer, flat[_slice(chunks[position])]))
        self._comm.exchange(WORLD, sends, receives)

    def _subtrees_of(self, rank: int) -> tuple[Span, ...]:
        pipeline, _ = self._plan.locate(rank)
        return subtrees(self._plan.block_count, self._plan.pipelines[pipeline].blocks)


def _slice(span: Span) -> slice:
    return slice(span.start, span.stop)

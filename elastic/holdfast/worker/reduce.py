"""Sums the gradients of a step over all ranks that hold a layer, and makes them ready for the commit.

canonical: along the fixed block tree, so that the bits do not depend on the layout. Each rank of a segment owns a
chunk of each flat gradient: partial sums travel to the chunk's owner, are combined there in tree order, and the
result travels back (a reduce-scatter and an all-gather whose order of summation is ours), some parameters at a time.
allreduce: the backend's own all-reduce, whose order is unspecified.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from holdfast.model.heartbeat import Phase
from holdfast.model.plan import Plan, Segment, Span
from holdfast.program import Program
from holdfast.worker.comm import WORLD, Comm
from holdfast.worker.gradients import BlockSums, Bucket, Gradients, add_all, gradient_layouts, separate
from holdfast.worker.layers import HeldLayer
from holdfast.worker.process_groups import Message
from holdfast.worker.ties import Ties
from holdfast.worker.trees import combine, even_cuts, subtrees

_CACHE_LINE = 16  # elements: where a flat tensor is cut


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

    def chunks(self, bucket: Bucket) -> Sequence[slice]:
        """What of the bucket each rank of the segment sums."""
        cuts = even_cuts(bucket.total, len(self.segment.ranks), _CACHE_LINE)
        return [slice(cut.start, cut.stop) for cut in cuts]


class Reducer:
    """Gradients of one worker in one generation."""

    def __init__(
        self, comm: Comm, program: Program, plan: Plan, rank: int, layers: Sequence[HeldLayer], *, canonical: bool
    ) -> None:
        self._comm, self._plan, self._rank, self._canonical = comm, plan, rank, canonical
        self._block_size = program.microbatches // plan.block_count
        held = {layer.index: layer for layer in layers}
        blocks = plan.pipelines[plan.locate(rank)[0]].blocks
        self._shares = [
            _Share(segment, segment.ranks.index(rank), BlockSums(layout, plan.block_count, self._block_size, blocks))
            for segment in plan.reduction_order
            if rank in segment.ranks
            for layout in gradient_layouts(held[index] for index in segment.layers)
        ]
        self._ties = Ties(comm, program, plan, rank, held)

    def begin(self) -> None:
        """Before the first backward of a step."""
        for share in self._shares:
            share.sums.begin()

    def microbatch_done(self, microbatch: int) -> None:
        """The backward of a (global) microbatch is over; the schedule runs them in ascending order."""
        self._comm.enter(Phase.COMPUTE)
        separate(share.sums.layout for share in self._shares)
        if self._canonical and (microbatch + 1) % self._block_size == 0:
            for share in self._shares:
                share.sums.end_block(microbatch // self._block_size)
        self._comm.enter(Phase.COMMUNICATE)

    def reduce(self) -> None:
        """After the last backward: afterwards every `.grad` is the sum over the global batch. Collective.

        Raises:
            CommunicationError: a peer was lost; gradients are of no use then.
        """
        for share in self._shares:
            self._comm.enter(Phase.COMPUTE)
            if self._canonical:
                self._reduce_canonical(share)
            else:
                self._reduce_fast(share)
        self._comm.enter(Phase.COMPUTE)
        self._ties.sum()

    def _reduce_fast(self, share: _Share) -> None:
        layout = share.sums.layout
        gradients = layout.take()
        if not share.is_alone:
            flats = [bucket.flat(gradients) for bucket in layout.buckets]
            self._comm.all_reduce(segment_group(share.segment), *flats)
            for bucket, flat in zip(layout.buckets, flats, strict=True):
                bucket.write_back(flat, gradients)
        share.sums.settle(gradients)

    def _reduce_canonical(self, share: _Share) -> None:
        parts = dict(share.sums.parts)
        if share.is_alone:
            share.sums.settle(combine(self._plan.block_count, parts, add_all))
            return
        total = next(iter(parts.values()))
        for buckets in share.sums.layout.rounds:
            self._sum_round(share, buckets, parts, total)
        share.sums.settle(total)

    def _sum_round(
        self, share: _Share, buckets: Sequence[Bucket], parts: Mapping[Span, Gradients], total: Gradients
    ) -> None:
        """The sum over all blocks, into `total`, which is one of the parts."""
        flats = [{node: bucket.flat(gradients) for node, gradients in parts.items()} for bucket in buckets]
        inboxes = self._scatter(share, buckets, flats)
        results = [next(iter(flat.values())) for flat in flats]
        for bucket, flat, inbox, result in zip(buckets, flats, inboxes, results, strict=True):
            mine = share.chunks(bucket)[share.position]
            here = {node: part[mine] for node, part in flat.items()}
            summed = combine(self._plan.block_count, inbox | here, lambda left, right: left.add_(right))
            if summed.data_ptr() != result[mine].data_ptr():
                result[mine].copy_(summed)
        self._gather(share, buckets, results)
        for bucket, result in zip(buckets, results, strict=True):
            bucket.write_back(result, total)

    def _scatter(
        self, share: _Share, buckets: Sequence[Bucket], flats: Sequence[Mapping[Span, Tensor]]
    ) -> list[dict[Span, Tensor]]:
        """Send every other rank its chunk of this rank's subtrees; what came for this rank's chunk, by subtree."""
        sends: list[Message] = []
        receives: list[Message] = []
        inboxes: list[dict[Span, Tensor]] = []
        for bucket, flat in zip(buckets, flats, strict=True):
            inbox: dict[Span, Tensor] = {}
            chunks = share.chunks(bucket)
            mine = chunks[share.position]
            for position, peer in enumerate(share.segment.ranks):
                if peer != self._rank:
                    sends += [(peer, part[chunks[position]]) for part in flat.values()]
                    for node in self._subtrees_of(peer):
                        inbox[node] = share.sums.layout.empty(mine.stop - mine.start)
                        receives.append((peer, inbox[node]))
            inboxes.append(inbox)
        self._comm.exchange(WORLD, sends, receives)
        return inboxes

    def _gather(self, share: _Share, buckets: Sequence[Bucket], results: Sequence[Tensor]) -> None:
        """Everyone gets everyone's chunk, in place."""
        sends: list[Message] = []
        receives: list[Message] = []
        for bucket, result in zip(buckets, results, strict=True):
            chunks = share.chunks(bucket)
            for position, peer in enumerate(share.segment.ranks):
                if peer != self._rank:
                    sends.append((peer, result[chunks[share.position]]))
                    receives.append((peer, result[chunks[position]]))
        self._comm.exchange(WORLD, sends, receives)

    def _subtrees_of(self, rank: int) -> tuple[Span, ...]:
        pipeline, _ = self._plan.locate(rank)
        return subtrees(self._plan.block_count, self._plan.pipelines[pipeline].blocks)

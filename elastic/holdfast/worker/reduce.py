"""Sums the gradients of a step over all ranks that hold a layer, and makes them ready for the commit.

canonical: along the fixed block tree, so that the bits do not depend on the layout. Each rank of a segment owns a
chunk of its flat gradient: partial sums travel to the chunk's owner, are combined there in tree order, and the
result travels back (a reduce-scatter and an all-gather whose order of summation is ours).
allreduce: the backend's own all-reduce, whose order is unspecified.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.model.plan import Plan, Segment, Span
from holdfast.program import Program, split_parameter
from holdfast.worker.comm import Comm
from holdfast.worker.gradients import BlockSums, flatten
from holdfast.worker.layers import HeldLayer
from holdfast.worker.process_groups import Message
from holdfast.worker.trees import combine, even_cuts, subtrees

WORLD = "world"


def segment_group(segment: Segment) -> str:
    return "segment-" + "-".join(map(str, segment.ranks))


@dataclass(frozen=True, slots=True)
class _Share:
    """This rank's gradients of one dtype of one segment."""

    segment: Segment
    position: int  # of this rank among the segment's
    sums: BlockSums


class Reducer:
    """Gradients of one worker in one generation."""

    def __init__(
        self, comm: Comm, program: Program, plan: Plan, rank: int, layers: Sequence[HeldLayer], *, canonical: bool
    ) -> None:
        self._comm, self._plan, self._rank, self._canonical = comm, plan, rank, canonical
        pipeline, _ = plan.locate(rank)
        self._blocks = plan.pipelines[pipeline].blocks
        self._block_size = program.microbatches // plan.block_count
        held = {layer.index: layer for layer in layers}
        self._shares = [
            _Share(segment, segment.ranks.index(rank), BlockSums(flats, plan.block_count))
            for segment in plan.segments
            if rank in segment.ranks
            for flats in flatten(held[index] for index in segment.layers)
        ]
        self._ties = Ties(comm, program, plan, rank, held)

    def begin(self) -> None:
        """Before the first backward of a step."""
        for share in self._shares:
            share.sums.begin()

    def microbatch_done(self, microbatch: int) -> None:
        """The backward of a (global) microbatch is over; the schedule runs them in ascending order."""
        done = microbatch + 1
        if not self._canonical or done % self._block_size:
            return
        block = microbatch // self._block_size
        for share in self._shares:
            share.sums.end_block(block)
            if block + 1 < self._blocks.stop:
                share.sums.open_block()

    def reduce(self) -> None:
        """After the last backward: afterwards every `.grad` is the sum over the global batch. Collective.

        Raises:
            CommunicationError: a peer was lost; gradients are of no use then.
        """
        if self._canonical:
            self._reduce_canonical()
        else:
            for share in self._shares:
                flat = share.sums.take_all()
                if len(share.segment.ranks) > 1:
                    self._comm.all_reduce(segment_group(share.segment), flat)
                share.sums.settle(flat)
        self._ties.sum()

    def _reduce_canonical(self) -> None:
        sends: list[Message] = []
        receives: list[Message] = []
        inboxes: list[dict[Span, Tensor]] = []
        for share in self._shares:
            inbox: dict[Span, Tensor] = {}
            chunks = self._chunks(share)
            for position, peer in enumerate(share.segment.ranks):
                if peer == self._rank:
                    continue
                sends += [(peer, part[_slice(chunks[position])]) for _, part in share.sums.parts]
                for node in self._subtrees_of(peer):
                    inbox[node] = share.sums.flats.empty(len(chunks[share.position]))
                    receives.append((peer, inbox[node]))
            inboxes.append(inbox)
        self._comm.exchange(WORLD, sends, receives)
        sends, receives = [], []
        for share, inbox in zip(self._shares, inboxes, strict=True):
            chunks = self._chunks(share)
            mine = _slice(chunks[share.position])
            flat = share.sums.parts[0][1]
            parts = inbox | {node: part[mine] for node, part in share.sums.parts}
            total = combine(self._plan.block_count, parts, lambda left, right: left.add_(right))
            if total.data_ptr() != flat[mine].data_ptr():
                flat[mine].copy_(total)
            for position, peer in enumerate(share.segment.ranks):
                if peer != self._rank:
                    sends.append((peer, flat[mine]))
                    receives.append((peer, flat[_slice(chunks[position])]))
        self._comm.exchange(WORLD, sends, receives)
        for share in self._shares:
            share.sums.settle(share.sums.parts[0][1])

    def _chunks(self, share: _Share) -> Sequence[Span]:
        return even_cuts(share.sums.flats.total, len(share.segment.ranks), share.sums.flats.step)

    def _subtrees_of(self, rank: int) -> tuple[Span, ...]:
        pipeline, _ = self._plan.locate(rank)
        return subtrees(self._plan.block_count, self._plan.pipelines[pipeline].blocks)


class Ties:
    """Adds up the gradients of parameters that share one value, in the order the Program names them.

    Every layer keeps a copy of its own, also where two tied layers sit on one slot: only so is the order of the
    sum the same in every layout. All copies then take the same step, from the same state.
    """

    def __init__(self, comm: Comm, program: Program, plan: Plan, rank: int, held: dict[int, HeldLayer]) -> None:
        self._comm, self._rank, self._held = comm, rank, held
        pipeline, _ = plan.locate(rank)
        names = [layer.name for layer in program.layers]
        self._groups: list[list[tuple[int, int, str]]] = []  # (rank in this pipeline, layer, parameter)
        for group in tie_groups(program):
            members = []
            for path in group:
                layer_name, parameter = split_parameter(path)
                layer = names.index(layer_name)
                owner = next(r for r in plan.holders(layer) if plan.locate(r)[0] == pipeline)
                members.append((owner, layer, parameter))
            self._groups.append(members)

    def sum(self) -> None:
        """Collective over a pipeline's ranks that hold tied layers."""
        sends: list[Message] = []
        receives: list[Message] = []
        totals: list[list[Tensor]] = []
        for members in self._groups:
            owners = sorted({owner for owner, _, _ in members})
            values: list[Tensor] = []
            template = next((self._gradient(m) for m in members if m[0] == self._rank), None)
            if template is None:
                continue
            for member in members:
                if member[0] == self._rank:
                    mine = self._gradient(member).clone()
                    sends += [(owner, mine) for owner in owners if owner != self._rank]
                    values.append(mine)
                else:
                    values.append(torch.empty_like(template))
                    receives.append((member[0], values[-1]))
            totals.append(values)
        self._comm.exchange(WORLD, sends, receives)
        mine_first = [members for members in self._groups if any(m[0] == self._rank for m in members)]
        for members, values in zip(mine_first, totals, strict=True):
            total = values[0].clone()
            for value in values[1:]:
                total.add_(value)
            for member in members:
                if member[0] == self._rank:
                    self._gradient(member).copy_(total)

    def _gradient(self, member: tuple[int, int, str]) -> Tensor:
        _, layer, parameter = member
        gradient = self._held[layer].trained[parameter].grad
        assert gradient is not None
        return gradient


def tie_groups(program: Program) -> list[list[str]]:
    """Parameter paths that share one value, each group in the order in which the Program names them."""
    groups: list[list[str]] = []
    for tie in program.tied:
        joined = [group for group in groups if tie.a in group or tie.b in group]
        merged = [path for group in joined for path in group]
        merged += [path for path in (tie.a, tie.b) if path not in merged]
        groups = [group for group in groups if group not in joined] + [merged]
    return groups


def _slice(span: Span) -> slice:
    return slice(span.start, span.stop)

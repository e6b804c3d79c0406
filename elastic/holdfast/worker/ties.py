"""Parameters of different layers that share one value."""

import torch
from torch import Tensor

from holdfast.model.plan import Plan
from holdfast.program import Program, split_parameter
from holdfast.worker.comm import WORLD, Comm
from holdfast.worker.layers import HeldLayer
from holdfast.worker.process_groups import Message


class Ties:
    """Adds up the gradients of parameters that share one value, in the order the Program names them.

    Every layer keeps a copy of its own, also where two tied layers sit on one slot: only so is the order of the
    sum the same in every layout. All copies then take the same step, from the same state.
    """

    def __init__(self, comm: Comm, program: Program, plan: Plan, rank: int, held: dict[int, HeldLayer]) -> None:
        self._comm, self._rank, self._held = comm, rank, held
        pipeline, _ = plan.locate(rank)
        names = [layer.name for layer in program.layers]
        # Those that this rank has a part of; each (rank in this pipeline, layer, parameter).
        self._groups: list[list[tuple[int, int, str]]] = []
        for group in program.tie_groups:
            members = []
            for path in group:
                layer_name, parameter = split_parameter(path)
                layer = names.index(layer_name)
                owner = next(r for r in plan.holders(layer) if plan.locate(r)[0] == pipeline)
                members.append((owner, layer, parameter))
            # All of a group are trained, or all are frozen and have no gradients.
            if any(owner == rank and parameter in held[layer].trained for owner, layer, parameter in members):
                self._groups.append(members)

    def sum(self) -> None:
        """Collective over a pipeline's ranks that hold tied layers."""
        sends: list[Message] = []
        receives: list[Message] = []
        totals: list[list[Tensor]] = []
        for members in self._groups:
            template = next(self._gradient(m) for m in members if m[0] == self._rank)
            owners = sorted({owner for owner, _, _ in members})
            values: list[Tensor] = []
            for member in members:
                if member[0] == self._rank:
                    # As its shape says, since another copy may lie in memory in another way.
                    mine = self._gradient(member).clone(memory_format=torch.contiguous_format)
                    sends += [(owner, mine) for owner in owners if owner != self._rank]
                    values.append(mine)
                else:
                    values.append(torch.empty(template.shape, dtype=template.dtype, device=template.device))
                    receives.append((member[0], values[-1]))
            totals.append(values)
        self._comm.exchange(WORLD, sends, receives)
        for members, values in zip(self._groups, totals, strict=True):
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

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

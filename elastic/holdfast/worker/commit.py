"""The commit of one step: every rank votes with what the others must know, and only then applies its optimizer.

The vote is one sum over all ranks. A sum in which every entry has a single contributor is exact, so all ranks get
the same bits: the squared gradient norm of each layer, the loss of each microbatch, the wishes to stop, how each rank
stands with its snapshots.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.control.snapshotting import Standing, Tally
from holdfast.model.plan import Plan
from holdfast.model.records import Commit
from holdfast.program import Program
from holdfast.worker.comm import WORLD, Comm
from holdfast.worker.layers import HeldLayer


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Does anyone want to stop, the gradient norm if gradients are clipped, the mean loss."""

    stop: bool
    grad_norm: float | None
    loss: float
    tally: Tally


# Counted entries come first: stop, then those of `Standing`; then one cost a rank, one norm a layer, one loss a
# microbatch.
_COUNTS = 5


class Vote:
    """Builds, casts and reads the vote of one rank."""

    def __init__(self, comm: Comm, program: Program, plan: Plan, rank: int, device: torch.device) -> None:
        self._comm, self._program, self._device = comm, program, device
        self._rank, self._ranks, self._layers = rank, len(plan.slots), len(program.layers)
        self._mine = [layer for layer in range(self._layers) if plan.holders(layer)[0] == rank]
        self._shared_elsewhere = {path for group in program.tie_groups for path in group[1:]}

    def cast(
        self, held: Mapping[int, HeldLayer], losses: Mapping[int, Tensor], stop: bool, standing: Standing
    ) -> Result:
        """One all-reduce over the world. `losses`: of the microbatches whose loss this rank computed.

        Once this returns, every rank has voted: the step is committed. Raises: CommunicationError: the result is
        unknown.
        """
        norms_at = _COUNTS + self._ranks
        losses_at = norms_at + self._layers
        ballot = torch.zeros(losses_at + self._program.microbatches, dtype=torch.float64)
        counted = (stop, standing.uncopied, standing.blocked, standing.uploading, standing.failed)
        ballot[:_COUNTS] = torch.tensor(counted, dtype=torch.float64)
        ballot[_COUNTS + self._rank] = standing.cost
        if self._program.clip_grad_norm is not None and held:
            for layer in self._mine:
                ballot[norms_at + layer] = self._squared_norm(held[layer])
        for microbatch, loss in losses.items():
            ballot[losses_at + microbatch] = loss.double()
        ballot = ballot.to(self._device)
        self._comm.all_reduce(WORLD, ballot)
        values: list[float] = ballot.tolist()
        norm = None
        if self._program.clip_grad_norm is not None:
            norm = math.sqrt(math.fsum(values[norms_at:losses_at]))
        stops, uncopied, blocked, uploading, failed = map(int, values[:_COUNTS])
        tally = Tally(
            uncopied=uncopied, blocked=blocked, uploading=uploading, failed=failed, cost=max(values[_COUNTS:norms_at])
        )
        return Result(stop=stops > 0, grad_norm=norm, loss=mean(values[losses_at:]), tally=tally)

    def _squared_norm(self, layer: HeldLayer) -> float:
        total = 0.0
        for name, parameter in layer.trained.items():
            if parameter.grad is not None and f"{layer.name}.{name}" not in self._shared_elsewhere:
                wide = torch.promote_types(parameter.grad.dtype, torch.float32)
                total += float(torch.linalg.vector_norm(parameter.grad, dtype=wide)) ** 2
        return total


def mean(values: Sequence[float]) -> float:
    """Exact sum, so that no order matters; nan and infinities pass through."""
    if all(map(math.isfinite, values)):
        return math.fsum(values) / len(values)
    return sum(values) / len(values)


def apply_step(program: Program, held: Mapping[int, HeldLayer], commit: Commit) -> None:
    """Clip, set the rate, step every layer's optimizer. Local: what it needs of others is in `commit`."""
    factor = 1.0 if program.lr_schedule is None else float(program.lr_schedule(commit.step - 1))
    limit = program.clip_grad_norm
    if limit is not None and commit.grad_norm is not None:
        scale = limit / (commit.grad_norm + 1e-6)
        if scale < 1.0:
            for layer in held.values():
                for parameter in layer.trained.values():
                    if parameter.grad is not None:
                        parameter.grad.mul_(scale)
    for layer in held.values():
        layer.apply(factor)


def make_commit(step: int, loss: float, grad_norm: float | None) -> Commit:
    return Commit(step=step, loss=loss, grad_norm=grad_norm, time_s=time.time())

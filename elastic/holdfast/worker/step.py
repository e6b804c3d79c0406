"""Computes one step on one rank: 1F1B over this pipeline's microbatches, the reduction, the vote."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.pipelining import Schedule1F1B

from holdfast.control.snapshotting import Standing
from holdfast.errors import UserCodeError
from holdfast.model.heartbeat import Phase
from holdfast.model.plan import Plan, Span
from holdfast.worker.comm import Comm
from holdfast.worker.commit import Result, Vote
from holdfast.worker.data import Activation, collate
from holdfast.worker.device import give_back_freed
from holdfast.worker.layers import HeldLayer
from holdfast.worker.reduce import Reducer
from holdfast.worker.sampling import microbatch_positions, sample_indices
from holdfast.worker.stage import HoldfastStage, StageModule
from holdfast.worker.state import Setting

# Memory that was freed goes back to the system after so many steps: first of all before optimizers make their state.
_GIVE_BACK_STEPS = 16


class StepRunner:
    """Built once a generation, when all layers of the stage are held."""

    def __init__(self, setting: Setting, comm: Comm, plan: Plan, rank: int, held: dict[int, HeldLayer]) -> None:
        program, facts = setting.program, setting.facts
        self._setting, self._program, self._comm = setting, program, comm
        number, stage_index = plan.locate(rank)
        pipeline = plan.pipelines[number]
        span = pipeline.stages[stage_index].layers
        size = program.microbatches // plan.block_count
        self._microbatches = Span(pipeline.blocks.start * size, pipeline.blocks.stop * size)
        self._held = {layer: held[layer] for layer in span}
        first, last = facts.layers[span.start], facts.layers[span.stop - 1]
        canonical = setting.spec.reduction == "canonical"
        self._reducer = Reducer(comm, program, plan, rank, list(self._held.values()), canonical=canonical)
        self._module = StageModule(
            program,
            list(self._held.values()),
            first.input,
            comm.enter,
            setting.device,
        )
        self._stage = HoldfastStage(
            self._module,
            index=stage_index,
            count=pipeline.depth,
            device=setting.device,
            inputs=first.input,
            outputs=last.output,
            microbatches=self._microbatches,
            on_backward=self._reducer.microbatch_done,
        )
        self._schedule = Schedule1F1B(self._stage, len(self._microbatches), loss_fn=self._loss, scale_grads=False)
        self._is_first, self._is_last = stage_index == 0, stage_index == pipeline.depth - 1
        self._vote = Vote(comm, program, plan, rank, setting.device)
        self._losses: dict[int, Tensor] = {}
        self._targets: list[Activation] = []
        self._computed = 0  # steps of this generation

    def layer_s(self) -> dict[int, float]:
        """What a microbatch of the last step took on this slot, by layer. After the vote, when all of it is done."""
        return {n: seconds / len(self._microbatches) for n, seconds in self._module.clock.seconds().items()}

    def agree(self, stop: bool, standing: Standing) -> Result:
        """The first vote of a generation: everyone is ready. Of no step: the norm and the loss say nothing."""
        return self._vote.cast({}, {}, stop, standing)

    def compute(self, step: int) -> None:
        """Forward, backward and reduction of zero-based `step`; afterwards every `.grad` is complete.

        Raises: CommunicationError, UserCodeError.
        """
        self._setting.pulse.step = step
        self._module.step = step
        self._losses.clear()
        self._module.clock.begin_step()
        inputs = self._load(step)
        self._reducer.begin()
        self._comm.enter(Phase.COMMUNICATE)
        target = torch.arange(len(self._microbatches)) if self._is_last else None
        try:
            self._schedule.step(*inputs, target=target, return_outputs=False)
        except RuntimeError as error:  # the stage and the loss have told user code apart: this is communication
            raise self._comm.translate(error) from error
        self._reducer.reduce()
        if self._computed % _GIVE_BACK_STEPS == 0:
            give_back_freed(self._setting.device)
        self._computed += 1

    def vote(self, stop: bool, standing: Standing) -> Result:
        """See Vote.cast."""
        return self._vote.cast(self._held, self._losses, stop, standing)

    @property
    def held(self) -> Mapping[int, HeldLayer]:
        """The layers of this rank's stage."""
        return self._held

    def _load(self, step: int) -> tuple[Tensor, ...]:
        """Inputs of this pipeline's microbatches, one after another; targets are kept for the loss."""
        if not (self._is_first or self._is_last):
            return ()
        program, device = self._program, self._setting.device
        sizes = {"global_batch": program.global_batch, "microbatch": program.microbatch}
        loaded = []
        for microbatch in self._microbatches:
            self._comm.enter(Phase.COMPUTE)
            try:
                positions = microbatch_positions(step, microbatch, **sizes)
                indices = sample_indices(program.seed, positions, len(program.dataset))
                loaded.append(collate(program.dataset, indices))
            except Exception as error:  # the user's dataset
                raise UserCodeError(f"reading the dataset failed: {error!r}") from error
        self._targets = [_to_device(target, device) for _, target in loaded] if self._is_last else []
        if not self._is_first:
            return ()
        columns = zip(*(inputs for inputs, _ in loaded), strict=True)
        return tuple(torch.cat(column).to(device) for column in columns)

    def _loss(self, output: Activation, target: Tensor) -> Tensor:
        index = int(target)
        self._module.current = "loss"
        self._comm.enter(Phase.COMPUTE)
        try:
            loss = self._program.loss(output, self._targets[index])
        except Exception as error:  # the user's loss
            raise UserCodeError(f"the loss failed: {error!r}") from error
        self._losses[self._microbatches.start + index] = loss.detach()
        scaled = loss / self._program.microbatches
        self._comm.enter(Phase.COMMUNICATE)
        return scaled


def _to_device(target: Activation, device: torch.device) -> Activation:
    return tuple(part.to(device) for part in target) if isinstance(target, tuple) else target.to(device)

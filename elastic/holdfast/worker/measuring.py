"""What each layer of a Program costs on this device: alone, so that no more than one need fit, or among the others.

A layer runs as a stage runs it (`StageModule`), on a microbatch of the dataset, its input what the layers before made;
its gradients are summed as a step sums them (`BlockSums`), which costs a small layer as much as its backward.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from holdfast.errors import UserCodeError
from holdfast.model.facts import LayerFacts, ProgramFacts
from holdfast.model.plan import Span
from holdfast.planner.profile import LayerProfile
from holdfast.program import Program
from holdfast.spec import JobSpec
from holdfast.worker.data import Activation, collate
from holdfast.worker.gradients import BlockSums, gradient_layouts, separate
from holdfast.worker.layers import HeldLayer, initial_layer
from holdfast.worker.sampling import microbatch_positions, sample_indices
from holdfast.worker.saved import saved_memory
from holdfast.worker.stage import StageModule

# Of more a pass learns nothing new.
_MICROBATCHES_MAX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How often each thing is repeated: `warm_up` times unseen, then until `repeats` times and `seconds` are over, or
    twenty times as often."""

    warm_up: int = 2
    repeats: int = 9
    seconds: float = 0.3


def median_s(effort: Effort, device: torch.device, passage: Callable[[], None]) -> float:
    """The median seconds of `passage`."""
    seen: list[float] = []

    def timed() -> None:
        begun_s = now_s(device)
        passage()
        seen.append(now_s(device) - begun_s)

    repeat(effort, timed)
    return median(seen[effort.warm_up :])


def repeat(effort: Effort, passage: Callable[[], None]) -> None:
    """As often as `effort` says, warm-up included."""
    for _ in range(effort.warm_up):
        passage()
    begun = time.perf_counter()
    for turn in range(20 * effort.repeats):
        if turn >= effort.repeats and time.perf_counter() - begun > effort.seconds:
            return
        passage()


def now_s(device: torch.device) -> float:
    """When all that was asked of the device is done. On a CPU with a single thread the clock stands still while other
    work of the machine has the core: a busy machine measures the same."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def load_seconds(program: Program, effort: Effort) -> float:
    """Reading one microbatch's samples, from wherever they are: by the wall clock."""
    seen: list[float] = []

    def read() -> None:
        begun_s = time.perf_counter()
        _load(program)
        seen.append(time.perf_counter() - begun_s)

    repeat(effort, read)
    return median(seen[effort.warm_up :])


def measure_layers(
    program: Program, spec: JobSpec, facts: ProgramFacts, device: torch.device, effort: Effort
) -> Iterator[LayerProfile]:
    """In order.

    Raises:
        UserCodeError: the user's code raised.
    """
    every = trials(program, spec, facts, device)
    groups = [list(every)] if _fits(facts, device) else ([trial] for trial in every)
    for group in groups:
        seen: list[list[tuple[float, float]]] = []
        repeat(effort, lambda group=group, seen=seen: seen.append(pass_through(group, device)))  # type: ignore[misc]
        for trial, *passes in zip(group, *seen[effort.warm_up :], strict=True):
            yield trial.profile(*map(median, zip(*passes, strict=True)), effort)


def _fits(facts: ProgramFacts, device: torch.device) -> bool:
    """On a CPU, which is slower the less of what it works on is in its caches, the layers are measured together. But
    all have to have room, with as much again for gradients and activations."""
    if device.type != "cpu":
        return False
    free_bytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 2 * sum(layer.state_bytes for layer in facts.layers) < free_bytes / 2


def pass_through(group: Sequence["LayerTrial"], device: torch.device) -> list[tuple[float, float]]:
    """Microbatches forward through the layers and back; of each layer, seconds of a forward and of a backward."""
    forward_s, backward_s = [0.0] * len(group), [0.0] * len(group)
    for trial in group:
        trial.begin()
    microbatches = group[0].microbatches
    for microbatch in range(microbatches):
        mark_s = now_s(device)
        for number, trial in enumerate(group):
            trial.forward()
            before_s, mark_s = mark_s, now_s(device)
            forward_s[number] += mark_s - before_s
        for number, trial in reversed(list(enumerate(group))):
            trial.backward(microbatch)
            before_s, mark_s = mark_s, now_s(device)
            backward_s[number] += mark_s - before_s
    for trial in group:
        trial.end()
    return [(one / microbatches, other / microbatches) for one, other in zip(forward_s, backward_s, strict=True)]


def trials(program: Program, spec: JobSpec, facts: ProgramFacts, device: torch.device) -> "Iterator[LayerTrial]":
    """Every layer in turn; the last one computes the loss, too."""
    inputs, target = _load(program)
    given: tuple[Tensor, ...] = tuple(tensor.to(device) for tensor in inputs)
    target = tuple(part.to(device) for part in target) if isinstance(target, tuple) else target.to(device)
    for index, layer in enumerate(facts.layers):
        is_last = index == len(facts.layers) - 1
        trial = LayerTrial(program, spec, layer, index, given, target if is_last else None, device)
        yield trial
        given = trial.output()


class LayerTrial:
    """One layer on the device, and what it is given; with a `target`, the loss as well."""

    def __init__(
        self,
        program: Program,
        spec: JobSpec,
        facts: LayerFacts,
        index: int,
        given: Sequence[Tensor],
        target: Activation | None,
        device: torch.device,
    ) -> None:
        self._program, self._facts, self._device = program, facts, device
        self._held = initial_layer(program, index, device)
        self._module = StageModule(program, [self._held], facts.input, lambda _: None, device)
        self._given, self._target = given, target
        self._made: tuple[Tensor, ...] = ()
        self._canonical, self._block = spec.reduction == "canonical", spec.block
        blocks = program.blocks(spec.block)
        few = Span(0, min(blocks, max(1, _MICROBATCHES_MAX // spec.block)))
        self.microbatches = len(few) * spec.block
        self._sums = [BlockSums(made, blocks, self._block, few) for made in gradient_layouts([self._held])]

    def forward(self) -> None:
        specs = self._facts.input.tensors
        arrived = [
            tensor.detach().requires_grad_(spec.requires_grad) for tensor, spec in zip(self._given, specs, strict=True)
        ]
        made = self._module(*arrived)
        if self._target is not None:
            try:
                made = self._program.loss(made, self._target) / self._program.microbatches
            except Exception as error:  # the user's loss may raise anything
                raise UserCodeError(f"the loss failed: {error!r}") from error
        self._made = made if isinstance(made, tuple) else (made,)

    def backward(self, microbatch: int) -> None:
        """And what becomes of the gradients after it, as in `worker.reduce`."""
        made = [tensor for tensor in self._made if tensor.requires_grad]
        if not made:
            return
        try:
            torch.autograd.backward(made, [torch.ones_like(tensor) for tensor in made])
        except Exception as error:  # the user's own autograd functions may raise anything
            raise UserCodeError(f"backward of layer {self._facts.name!r} failed: {error!r}") from error
        separate(sums.layout for sums in self._sums)
        if self._canonical and (microbatch + 1) % self._block == 0:
            for sums in self._sums:
                sums.end_block(microbatch // self._block)

    def begin(self) -> None:
        """Before the first microbatch."""
        for sums in self._sums:
            sums.begin()

    def end(self) -> None:
        """After the last one: leave a gradient in place."""
        for sums in self._sums:
            sums.settle(sums.parts[0][1] if self._canonical else sums.layout.take())

    def update(self) -> None:
        """What the commit does with a layer: the gradient's norm, clipping, the optimizer."""
        if self._program.clip_grad_norm is not None:
            for parameter in self._held.trained.values():
                if parameter.grad is not None:
                    float(torch.linalg.vector_norm(parameter.grad))
                    parameter.grad.mul_(1.0)
        self._held.apply(1.0)

    def output(self) -> tuple[Tensor, ...]:
        """What the next layer is given."""
        with torch.no_grad():
            made = self._module(*self._given)
        return tuple(tensor.detach() for tensor in (made if isinstance(made, tuple) else (made,)))

    def profile(self, forward_s: float, backward_s: float, effort: Effort) -> LayerProfile:
        """With what its forward and backward were found to take."""
        update_s = median_s(effort, self._device, self.update)
        return LayerProfile(
            name=self._facts.name,
            forward_s=forward_s,
            backward_s=backward_s,
            param_bytes=sum(parameter.nbytes for parameter in self._held.trained.values()),
            state_bytes=sum(tensor.nbytes for tensor in self._held.tensors().values()),
            activation_bytes=self._activation_bytes(),
            output_bytes=self._facts.output_bytes,
            update_s=update_s,
        )

    def _activation_bytes(self) -> int:
        """What autograd saves for the backward, beside parameters and buffers. Where two tensors share memory it is
        counted once."""
        with saved_memory() as saved:
            self.forward()
        self._made = ()
        return saved.bytes_beside(_state_of(self._held))


def _load(program: Program) -> tuple[tuple[Tensor, ...], Activation]:
    positions = microbatch_positions(0, 0, global_batch=program.global_batch, microbatch=program.microbatch)
    try:
        return collate(program.dataset, sample_indices(program.seed, positions, len(program.dataset)))
    except Exception as error:  # the user's dataset may raise anything
        raise UserCodeError(f"reading the dataset failed: {error!r}") from error


def _state_of(held: HeldLayer) -> list[Tensor]:
    return [*held.module.parameters(), *held.module.buffers()]

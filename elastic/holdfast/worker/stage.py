"""One pipeline stage: its layers as a module, and torch's PipelineStage around it.

Everything random in a layer's forward derives from (seed, step, microbatch, layer), never from rank or layout.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage

from holdfast.errors import AbortedError, HoldfastError, UserCodeError
from holdfast.model.facts import ActivationSpec
from holdfast.model.heartbeat import Phase
from holdfast.model.plan import Span
from holdfast.program import Program
from holdfast.worker.data import Activation, apply_layer
from holdfast.worker.device import Randomness
from holdfast.worker.layers import HeldLayer
from holdfast.worker.pace import LayerClock
from holdfast.worker.sampling import derive_seed


class StageModule(nn.Module):
    """The layers of a stage, one after another.

    `microbatch` and `step` are set before each forward; `current` names the layer being computed, for errors.
    """

    def __init__(
        self,
        program: Program,
        layers: list[HeldLayer],
        first_input: ActivationSpec,
        enter: Callable[[Phase], None],
        device: torch.device,
    ) -> None:
        """`enter`: a heartbeat, that raises AbortedError after an abort. It is called at every layer, so that an abort
        does not wait until this rank communicates again."""
        super().__init__()
        self._program = program
        self._layers = layers
        self._takes_tuple = first_input.is_tuple
        self.enter = enter
        self.inner = nn.ModuleList(layer.module for layer in layers)
        self.clock = LayerClock(device)
        self.step = 0
        self.microbatch = 0
        self.current = layers[0].name
        self._seed_prefix = (program.seed, "forward")
        self._randomness = Randomness(device)

    def forward(self, *args: Tensor) -> Activation:
        activation: Activation = args if self._takes_tuple else args[0]
        for layer in self._layers:
            self._enter(layer)
            self._randomness.seed(derive_seed(*self._seed_prefix, self.step, self.microbatch, layer.name))
            begun = self.clock.mark()
            try:
                activation = apply_layer(layer.module, activation)
            except Exception as error:  # the user's module: whatever it raises ends the job with its traceback
                raise UserCodeError(f"forward of layer {layer.name!r} failed: {error!r}") from error
            activation = _own_nodes(activation)
            self.clock.forward(layer.index, begun)
            self._watch_backward(layer, activation)
        return activation

    def _enter(self, layer: HeldLayer) -> None:
        self.enter(Phase.COMPUTE)
        self.current = layer.name

    def _watch_backward(self, layer: HeldLayer, activation: Activation) -> None:
        """When the gradient of a layer's output is known, the backward of the layers after it is over."""
        outputs = activation if isinstance(activation, tuple) else (activation,)
        output = next((tensor for tensor in outputs if tensor.requires_grad), None)
        if output is None:
            return

        def begin_backward(_: Tensor) -> None:
            if layer is not self._layers[-1]:
                self.clock.backward(layer.index + 1)
            self._enter(layer)

        output.register_hook(begin_backward)


class HoldfastStage(PipelineStage):
    """A PipelineStage that counts global microbatches, closes blocks, and tells user code from communication."""

    def __init__(
        self,
        module: StageModule,
        *,
        index: int,
        count: int,
        device: torch.device,
        inputs: ActivationSpec,
        outputs: ActivationSpec,
        microbatches: Span,
        on_backward: Callable[[int], None],
    ) -> None:
        """`on_backward(microbatch)` is called when the gradients of that (global) microbatch are in place."""
        super().__init__(
            module,
            index,
            count,
            device,
            input_args=_placeholders(inputs),
            output_args=_placeholders(outputs),
        )
        self._module = module
        self._microbatches = microbatches
        self._on_backward = on_backward

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        self._module.microbatch = self._microbatches.start + fwd_chunk_id
        try:
            output = super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)
            self._module.enter(Phase.COMMUNICATE)
            return output
        except RuntimeError as error:  # torch wraps what the module raised
            if isinstance(error.__cause__, HoldfastError):
                raise error.__cause__ from error.__cause__.__cause__
            raise

    def backward_maybe_with_nosync(self, *args: Any, **kwargs: Any) -> Any:
        self._module.clock.start_backward()
        try:
            return super().backward_maybe_with_nosync(*args, **kwargs)
        except Exception as error:  # backward runs user code and no communication
            first = error.__cause__ or error  # torch wraps what autograd raised
            if isinstance(first, AbortedError):
                raise first from None
            raise UserCodeError(f"backward of layer {self._module.current!r} failed: {first!r}") from first

    def backward_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> None:
        super().backward_one_chunk(bwd_chunk_id, *args, **kwargs)
        self._module.clock.backward(self._module._layers[0].index)
        self._module.enter(Phase.COMMUNICATE)
        self._on_backward(self._microbatches.start + bwd_chunk_id)


def _own_nodes(activation: Activation) -> Activation:
    """Each tensor of a tuple as a view of its own.

    A layer may return a tensor twice, or one that it was given. The gradients of each place in the tuple are then
    summed apart, as they are where a cut follows: else the order of the sum would depend on the cuts.
    """
    return tuple(tensor.view_as(tensor) for tensor in activation) if isinstance(activation, tuple) else activation


def _placeholders(spec: ActivationSpec) -> tuple[Tensor, ...]:
    """Meta tensors of the shapes that cross a stage's edge: with them torch exchanges no (pickled) metadata."""
    return tuple(
        torch.empty(tensor.shape, dtype=getattr(torch, tensor.dtype), device="meta").requires_grad_(
            tensor.requires_grad
        )
        for tensor in spec.tensors
    )

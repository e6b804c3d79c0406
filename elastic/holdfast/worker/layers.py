"""The layers a worker holds: module, optimizer and their state as named tensors.

A layer is built from the seed and its name alone, so it is the same wherever it is built.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from holdfast.errors import UserCodeError
from holdfast.program import Program, split_parameter
from holdfast.worker.device import seed_all
from holdfast.worker.modules import moved, survives_emptying
from holdfast.worker.sampling import derive_seed


class HeldLayer:
    """One whole layer on this worker's device."""

    def __init__(self, program: Program, index: int, module: nn.Module, device: torch.device) -> None:
        self.index = index
        self.name = program.layers[index].name
        self.module = moved(module, lambda module: module.to(device)).train()
        self.parameters: dict[str, nn.Parameter] = dict(module.named_parameters(remove_duplicate=True))
        self.trained: dict[str, nn.Parameter] = {
            name: parameter for name, parameter in self.parameters.items() if parameter.requires_grad
        }
        self.optimizer = _make_optimizer(program, self.name, list(self.trained.values()))
        self._base_lrs = [group["lr"] for group in self.optimizer.param_groups] if self.optimizer else []

    def apply(self, lr_factor: float) -> None:
        """One optimizer step with the gradients in place."""
        if self.optimizer is None:
            return
        for group, base in zip(self.optimizer.param_groups, self._base_lrs, strict=True):
            group["lr"] = base * lr_factor
        self.optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """All state that training changes, by name: `model.` and `optim.` tensors, live views, sorted by name.

        Buffers that are not persistent are here too: a receiver rebuilds the layer without running its
        initialisation.
        """
        found: dict[str, Tensor] = {f"model.{name}": p.detach() for name, p in self.parameters.items()}
        found |= {f"model.{name}": buffer for name, buffer in self.module.named_buffers()}
        found |= {name: value for name, value in self._optimizer_items() if isinstance(value, Tensor)}
        return dict(sorted(found.items()))

    def scalars(self) -> dict[str, object]:
        """Optimizer state that is no tensor, by name."""
        return {name: value for name, value in self._optimizer_items() if not isinstance(value, Tensor)}

    def load(self, tensors: Mapping[str, Tensor], scalars: Mapping[str, object]) -> None:
        """Take over what `tensors` and `scalars` of another copy of this layer gave."""
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                if name.startswith("model."):
                    tensor.copy_(tensors[name])
        if self.optimizer is not None:
            for name, value in (dict(tensors) | dict(scalars)).items():
                kind, _, rest = name.partition(".")
                if kind == "optim":
                    key, _, parameter = rest.partition(".")
                    self.optimizer.state[self.trained[parameter]][key] = value

    def _optimizer_items(self) -> Iterator[tuple[str, object]]:
        if self.optimizer is None:
            return
        for name, parameter in self.trained.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                yield f"optim.{key}.{name}", value


def initial_layer(program: Program, index: int, device: torch.device) -> HeldLayer:
    """The layer as the seed makes it; a tied parameter as the first of its group starts."""
    module = _build(program, index)
    names = [layer.name for layer in program.layers]
    for first, *others in program.tie_groups:
        source_layer, source_parameter = split_parameter(first)
        for layer, parameter in map(split_parameter, others):
            if layer == names[index]:
                source = module if layer == source_layer else _build(program, names.index(source_layer))
                with torch.no_grad():
                    module.get_parameter(parameter).copy_(source.get_parameter(source_parameter))
    return HeldLayer(program, index, module, device)


def blank_layer(program: Program, index: int, device: torch.device) -> HeldLayer:
    """The layer with memory but no values, for a state that is about to arrive.

    Built on the meta device, which skips initialisation, wherever nothing is lost so; in full otherwise.
    """
    with torch.device("meta"):
        module = _build(program, index)
    if survives_emptying(module):
        module = moved(module, lambda module: module.to_empty(device=device))
    else:
        module = _build(program, index)
    return HeldLayer(program, index, module, device)


def _build(program: Program, index: int) -> nn.Module:
    layer = program.layers[index]
    seed_all(derive_seed(program.seed, "init", layer.name))
    try:
        return layer.build()
    except Exception as error:  # the user's factory: whatever it raises ends the job with its traceback
        raise UserCodeError(f"building layer {layer.name!r} failed: {error!r}") from error


def _make_optimizer(program: Program, name: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer | None:
    if not parameters:
        return None
    try:
        return program.optimizer(parameters)
    except Exception as error:  # the user's factory, as above
        raise UserCodeError(f"making the optimizer of layer {name!r} failed: {error!r}") from error

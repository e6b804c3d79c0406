"""From dataset samples to the tensors of one microbatch."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from holdfast.errors import ProgramError
from holdfast.program import SampleSource

Activation: TypeAlias = Tensor | tuple[Tensor, ...]


def collate(dataset: SampleSource, indices: Sequence[int]) -> tuple[tuple[Tensor, ...], Activation]:
    """The samples at `indices`, stacked along a new first dim: the inputs, always as a tuple, and the target.

    Raises:
        ProgramError: a sample is not a pair of tensors or tuples of tensors, or differs in shape from the others.
    """
    samples = [_checked(dataset[index], index) for index in indices]
    inputs = _stack([sample[0] for sample in samples], indices, "input")
    target = _stack([sample[1] for sample in samples], indices, "target")
    return inputs, target if isinstance(samples[0][1], tuple) else target[0]


def apply_layer(module: torch.nn.Module, activation: Activation) -> Any:
    """Call a layer's module by the rule for activations: a tuple is spread over its arguments."""
    return module(*activation) if isinstance(activation, tuple) else module(activation)


def _checked(sample: object, index: int) -> tuple[Activation, Activation]:
    if not isinstance(sample, tuple | list) or len(sample) != 2:
        raise ProgramError(f"dataset[{index}]: {_described(sample)} given; should be a pair (input, target)")
    for name, side in zip(("input", "target"), sample, strict=True):
        parts = side if isinstance(side, tuple) else (side,)
        if not parts or not all(isinstance(part, Tensor) for part in parts):
            raise ProgramError(
                f"dataset[{index}]: its {name} is {_described(side)}; should be a tensor or a tuple of tensors "
                "(torch.as_tensor turns numbers and arrays into one)"
            )
    return sample[0], sample[1]


def _stack(sides: list[Activation], indices: Sequence[int], name: str) -> tuple[Tensor, ...]:
    parts = [side if isinstance(side, tuple) else (side,) for side in sides]
    first = _described(sides[0])
    for index, side in zip(indices, sides, strict=True):
        if _described(side) != first:
            raise ProgramError(
                f"dataset[{index}]: its {name} is {_described(side)}, but that of dataset[{indices[0]}] is {first}; "
                "all samples should have the same shapes and dtypes (pad or crop them)"
            )
    return tuple(torch.stack(column) for column in zip(*parts, strict=True))


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} ({', '.join(map(_described, value))})"
    return type(value).__name__

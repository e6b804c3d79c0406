"""Gradients of a run of layers in flat buffers, summed in an order that no layout changes.

`Parameter.grad` is a view into the flat buffer of the block being computed. When a block ends its buffer goes on a
stack, where siblings of the block tree are merged at once: at most log2(blocks) + 1 buffers live at a time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.model.plan import Span
from holdfast.worker.layers import HeldLayer
from holdfast.worker.trees import parents

ALIGNMENT_BYTES = 64  # a view starts on a cache line, as a tensor of its own would


@dataclass(frozen=True, slots=True)
class _Place:
    parameter: nn.Parameter
    offset: int  # elements


class FlatGradients:
    """Gradients of one dtype of some layers: `total` elements, padding zero."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        first = parameters[0]
        self.dtype, self.device = first.dtype, first.device
        self.step = step = ALIGNMENT_BYTES // first.element_size()
        self._places: list[_Place] = []
        self.total = 0
        for parameter in parameters:
            self._places.append(_Place(parameter, self.total))
            self.total += -(-parameter.numel() // step) * step

    def empty(self, size: int) -> Tensor:
        return torch.empty(size, dtype=self.dtype, device=self.device)

    def attach(self, flat: Tensor) -> None:
        """Make every parameter's `.grad` a view of `flat`."""
        for place in self._places:
            shape = place.parameter.shape
            place.parameter.grad = flat[place.offset : place.offset + shape.numel()].view(shape)


class BlockSums:
    """Sums of the blocks one rank computes, for one FlatGradients.

    begin() ... end_block(0) ... end_block(1) ... then `parts` holds the maximal subtrees.
    """

    def __init__(self, flats: FlatGradients, blocks: int) -> None:
        self.flats = flats
        self._parents = parents(blocks)
        self._free: list[Tensor] = []
        self._current: Tensor | None = None
        self.parts: list[tuple[Span, Tensor]] = []

    def begin(self) -> None:
        """Forget the step before and take gradients for a new one."""
        self._free += [tensor for _, tensor in self.parts]
        self.parts = []
        self._open()

    def end_block(self, block: int) -> None:
        """The gradient of `block` is complete; the next backward belongs to the next block."""
        assert self._current is not None
        self.parts.append((Span(block, block + 1), self._current))
        self._current = None
        while len(self.parts) > 1 and (self.parts[-2][0], self.parts[-1][0]) in self._parents:
            right_span, right = self.parts.pop()
            left_span, left = self.parts.pop()
            self.parts.append((self._parents[left_span, right_span], left.add_(right)))
            self._free.append(right)

    def open_block(self) -> None:
        """Give the next block a zeroed buffer, if none is attached."""
        if self._current is None:
            self._open()

    def take_all(self) -> Tensor:
        """The sum of all that was computed since `begin`, where no block was ended."""
        assert self._current is not None and not self.parts
        flat, self._current = self._current, None
        return flat

    def settle(self, flat: Tensor) -> None:
        """The reduced gradient: attach it, keep it as the only part."""
        self._free += [tensor for _, tensor in self.parts if tensor is not flat]
        self.parts = [(Span(0, 0), flat)]
        self.flats.attach(flat)

    def _open(self) -> None:
        if self._current is None:
            self._current = self._free.pop() if self._free else self.flats.empty(self.flats.total)
        self._current.zero_()
        self.flats.attach(self._current)


def flatten(layers: Iterable[HeldLayer]) -> list[FlatGradients]:
    """One FlatGradients a dtype, dtypes in order of their names, layers and parameters in theirs."""
    by_dtype: dict[str, list[nn.Parameter]] = {}
    for layer in layers:
        for parameter in layer.trained.values():
            by_dtype.setdefault(str(parameter.dtype), []).append(parameter)
    return [FlatGradients(by_dtype[name]) for name in sorted(by_dtype)]

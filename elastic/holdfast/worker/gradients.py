"""Gradients of a run of layers, summed in an order that no layout changes.

Autograd leaves each block's gradient in the parameters' `.grad`. When a block ends it is taken from there and put on a
stack, where siblings of the block tree are merged at once: at most log2(blocks) + 1 gradients live at a time.
They are laid out flat only to travel.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.model.plan import Span
from holdfast.worker.layers import HeldLayer
from holdfast.worker.trees import parents

Gradients = tuple[Tensor, ...]  # one of each parameter of a layout, in its order

ALIGNMENT_BYTES = 64  # a parameter starts on a cache line of the flat gradient, as a tensor of its own would


@dataclass(frozen=True, slots=True)
class _Place:
    parameter: nn.Parameter
    offset: int  # elements


class FlatLayout:
    """Where each parameter's gradient lies in a flat tensor of `total` elements; all of one dtype."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        first = parameters[0]
        self.dtype, self.device = first.dtype, first.device
        self.step = ALIGNMENT_BYTES // first.element_size()
        self._places: list[_Place] = []
        self.total = 0
        for parameter in parameters:
            self._places.append(_Place(parameter, self.total))
            self.total += -(-parameter.numel() // self.step) * self.step

    def empty(self, size: int) -> Tensor:
        return torch.empty(size, dtype=self.dtype, device=self.device)

    def flatten(self, gradients: Gradients) -> Tensor:
        """A new flat tensor with these gradients in their places; what lies between is zero."""
        flat = torch.zeros(self.total, dtype=self.dtype, device=self.device)
        for view, gradient in zip(self.views(flat), gradients, strict=True):
            view.copy_(gradient)
        return flat

    def views(self, flat: Tensor) -> Gradients:
        """The gradient of each parameter within `flat`."""
        shapes = [place.parameter.shape for place in self._places]
        return tuple(
            flat[place.offset : place.offset + shape.numel()].view(shape)
            for place, shape in zip(self._places, shapes, strict=True)
        )

    def attach(self, gradients: Gradients | None) -> None:
        """Make these the parameters' `.grad`; None clears them."""
        for index, place in enumerate(self._places):
            place.parameter.grad = None if gradients is None else gradients[index]

    def take(self) -> Gradients:
        """The parameters' gradients, away from them.

        One that autograd did not reach is zero: whether it was reached may depend on the block, and the sum of the
        blocks must not depend on who computed which.
        """
        taken = []
        for place in self._places:
            gradient = place.parameter.grad
            taken.append(torch.zeros_like(place.parameter) if gradient is None else gradient)
            place.parameter.grad = None
        return tuple(taken)


class BlockSums:
    """Sums of the blocks that one rank computes: begin, then end_block in ascending order, then `parts`.

    `parts` are the maximal subtrees of the block tree within this rank's blocks, ascending.
    """

    def __init__(self, layout: FlatLayout, blocks: int) -> None:
        self.layout = layout
        self._parents = parents(blocks)
        self.parts: list[tuple[Span, Gradients]] = []

    def begin(self) -> None:
        """Forget the step before."""
        self.parts = []
        self.layout.attach(None)

    def end_block(self, block: int) -> None:
        """The gradient of `block` is complete; the next backward belongs to the next block."""
        self.parts.append((Span(block, block + 1), self.layout.take()))
        while len(self.parts) > 1 and (self.parts[-2][0], self.parts[-1][0]) in self._parents:
            right_span, right = self.parts.pop()
            left_span, left = self.parts.pop()
            self.parts.append((self._parents[left_span, right_span], add_all(left, right)))

    def settle(self, gradients: Gradients) -> None:
        """The reduced gradient: attach it, keep nothing else."""
        self.parts = []
        self.layout.attach(gradients)


def add_all(left: Gradients, right: Gradients) -> Gradients:
    """left + right, in place on left."""
    torch._foreach_add_(left, right)
    return left


def flat_layouts(layers: Iterable[HeldLayer]) -> list[FlatLayout]:
    """One layout a dtype, dtypes in order of their names, layers and parameters in theirs."""
    by_dtype: dict[str, list[nn.Parameter]] = {}
    for layer in layers:
        for parameter in layer.trained.values():
            by_dtype.setdefault(str(parameter.dtype), []).append(parameter)
    return [FlatLayout(by_dtype[name]) for name in sorted(by_dtype)]

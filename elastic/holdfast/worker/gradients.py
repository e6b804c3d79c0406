"""Gradients of a run of layers, summed in an order that no layout changes.

Autograd leaves each block's gradient in the parameters' `.grad`. When it is complete it is taken from there and put on
a stack, where siblings of the block tree are merged at once. Two siblings of one microbatch each autograd sums
itself, in place: the same sum, and one gradient less at a time. So about log2(blocks) of them live at once, up to twice
as many where a pipeline's blocks begin inside the tree. To travel, large ones stay as they lie.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from holdfast.model.plan import Span
from holdfast.worker.layers import HeldLayer
from holdfast.worker.trees import parents

Gradients = tuple[Tensor, ...]  # one of each parameter of a layout, in its order

# Parameters of fewer bytes travel side by side in a copy, so many in one as these make.
_LARGE_BYTES = 1 << 20
_COPY_BYTES_MAX = 8 << 20
# Gradients that are exchanged at once: what peers send is held besides one's own.
_ROUND_BYTES = 32 << 20

T = TypeVar("T")


class Bucket:
    """Parameters whose gradients travel as one flat tensor of `total` elements. `indices`: within their layout."""

    def __init__(self, parameters: Sequence[nn.Parameter], indices: Sequence[int]) -> None:
        self._indices = tuple(indices)
        self._sizes = [parameters[index].numel() for index in indices]
        self.total = sum(self._sizes)
        self.nbytes = sum(parameters[index].nbytes for index in indices)

    def flat(self, gradients: Gradients) -> Tensor:
        """One large gradient as it lies in memory, if it can be; a copy of several."""
        chosen = [gradients[index].reshape(-1) for index in self._indices]
        return chosen[0] if len(chosen) == 1 else torch.cat(chosen)

    def write_back(self, flat: Tensor, gradients: Gradients) -> None:
        """`flat`, which came from `flat(gradients)` and was changed, is what the gradients are to be."""
        for index, piece in zip(self._indices, flat.split(self._sizes), strict=True):
            if piece.data_ptr() != gradients[index].data_ptr():
                gradients[index].copy_(piece.view(gradients[index].shape))


class GradientLayout:
    """The parameters of one dtype whose gradients the same ranks share."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.dtype, self.device = parameters[0].dtype, parameters[0].device
        self.parameters = tuple(parameters)
        self.buckets = _buckets(self.parameters)
        # So many at a time as are exchanged at once; the same on every rank.
        self.rounds = _packed(self.buckets, lambda bucket: bucket.nbytes, _ROUND_BYTES)

    def empty(self, size: int) -> Tensor:
        return torch.empty(size, dtype=self.dtype, device=self.device)

    def attach(self, gradients: Gradients | None) -> None:
        """Make these the parameters' `.grad`; None clears them."""
        for index, parameter in enumerate(self.parameters):
            parameter.grad = None if gradients is None else gradients[index]

    def versions(self) -> tuple[int | None, ...]:
        """Of each parameter's gradient, a number that grows when autograd adds to it; None while there is none."""
        return tuple(None if p.grad is None else p.grad._version for p in self.parameters)

    def take(self) -> Gradients:
        """The parameters' gradients, away from them.

        One that autograd did not reach is zero: whether it was reached may depend on the block, and the sum of the
        blocks must not depend on who computed which.
        """
        taken = []
        for parameter in self.parameters:
            taken.append(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
            parameter.grad = None
        return tuple(taken)


def separate(layouts: Iterable[GradientLayout]) -> None:
    """Give every gradient memory of its own, after each backward.

    Autograd may leave views of one buffer in several parameters' `.grad` (where the forward adds or joins views of
    them). What it adds to one of them later would be added to the others, too.
    """
    seen: set[int] = set()
    for layout in layouts:
        for parameter in layout.parameters:
            gradient = parameter.grad
            if gradient is None:
                continue
            storage = gradient.untyped_storage()
            if storage.nbytes() != gradient.nbytes or storage.data_ptr() in seen:
                parameter.grad = gradient.clone()
            elif gradient.nbytes:
                seen.add(storage.data_ptr())


class BlockSums:
    """Sums of the blocks that one rank computes: begin, then end_block in ascending order, then `parts`.

    `parts` are the maximal subtrees of the block tree within this rank's blocks, ascending.
    """

    def __init__(self, layout: GradientLayout, blocks: int, block_size: int, mine: Span) -> None:
        """`block_size`: microbatches a block. `mine`: those of the `blocks` blocks that this rank computes."""
        self.layout = layout
        self._parents = parents(blocks)
        # With more microbatches a block, the first of the right one would be added to the left one's sum.
        self._pairs_until = mine.stop if block_size == 1 else 0
        self._after_left: tuple[int | None, ...] | None = None
        self.parts: list[tuple[Span, Gradients]] = []

    def begin(self) -> None:
        """Forget the step before."""
        self.parts = []
        self._after_left = None
        self.layout.attach(None)

    def end_block(self, block: int) -> None:
        """The gradient of `block` is complete; the next backward belongs to the next block."""
        span = Span(block, block + 1)
        if (span, Span(block + 1, block + 2)) in self._parents and block + 1 < self._pairs_until:
            self._after_left = self.layout.versions()  # autograd will add the next block's in place
            return
        if self._after_left is not None:
            span = Span(block - 1, block + 1)
            self.parts.append((span, self._take_pair(self._after_left)))
            self._after_left = None
        else:
            self.parts.append((span, self.layout.take()))
        while len(self.parts) > 1 and (self.parts[-2][0], self.parts[-1][0]) in self._parents:
            right_span, right = self.parts.pop()
            left_span, left = self.parts.pop()
            self.parts.append((self._parents[left_span, right_span], add_all(left, right)))

    def _take_pair(self, after_left: tuple[int | None, ...]) -> Gradients:
        """Both siblings' sum. Where only one reached a parameter the other's zero is added, which turns -0 into 0."""
        both = self.layout.versions()
        taken = self.layout.take()
        for gradient, left, now in zip(taken, after_left, both, strict=True):
            if left is None or left == now:
                gradient.add_(0.0)
        return taken

    def settle(self, gradients: Gradients) -> None:
        """The reduced gradient: attach it, keep nothing else."""
        self.parts = []
        self.layout.attach(gradients)


def add_all(left: Gradients, right: Gradients) -> Gradients:
    """left + right, in place on left."""
    torch._foreach_add_(left, right)
    return left


def gradient_layouts(layers: Iterable[HeldLayer]) -> list[GradientLayout]:
    """One layout a dtype, dtypes in order of their names, layers and parameters in theirs."""
    by_dtype: dict[str, list[nn.Parameter]] = {}
    for layer in layers:
        for parameter in layer.trained.values():
            by_dtype.setdefault(str(parameter.dtype), []).append(parameter)
    return [GradientLayout(by_dtype[name]) for name in sorted(by_dtype)]


def _buckets(parameters: Sequence[nn.Parameter]) -> tuple[Bucket, ...]:
    """Large parameters first, each alone; then the small ones, several in one."""
    indices = range(len(parameters))
    large = [index for index in indices if parameters[index].nbytes >= _LARGE_BYTES]
    small = [index for index in indices if parameters[index].nbytes < _LARGE_BYTES]
    together = _packed(small, lambda index: parameters[index].nbytes, _COPY_BYTES_MAX)
    return tuple(Bucket(parameters, chosen) for chosen in [*([index] for index in large), *together])


def _packed(items: Iterable[T], nbytes: Callable[[T], int], most: int) -> list[list[T]]:
    """Consecutive items in runs of at most `most` bytes, or of a single item."""
    runs: list[list[T]] = []
    size = 0
    for item in items:
        if not runs or size + nbytes(item) > most:
            runs.append([])
            size = 0
        runs[-1].append(item)
        size += nbytes(item)
    return runs

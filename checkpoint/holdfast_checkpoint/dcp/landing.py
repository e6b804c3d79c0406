"""From boxes of saved chunks to byte ranges, and from bytes to boxes of the tensors they are for."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast_checkpoint.dcp.saved import SavedChunk
from holdfast_checkpoint.dtypes import bytes_of, dtype_of, is_plain_memory, item_bytes

# What cannot be read straight into its place is read aside in pieces of about this size.
ASIDE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Landing:
    """A run of bytes of a blob and the box it fills. `aside`: bytes that must be read aside first."""

    blob: int
    start: int
    stop: int
    name: str
    target: Tensor
    dtype: torch.dtype
    strides: tuple[int, ...]
    is_direct: bool

    @property
    def aside(self) -> int:
        return 0 if self.is_direct else self.stop - self.start

    def memory(self) -> tuple[memoryview, Tensor | None]:
        """Where to read to; and the tensor that holds it, if that is not the target's own memory."""
        if self.is_direct:
            return bytes_of(self.target), None
        held = torch.empty(self.stop - self.start, dtype=torch.uint8)
        return bytes_of(held), held

    def settle(self, held: Tensor | None) -> None:
        """Once the bytes are there."""
        if held is not None:
            with torch.no_grad():
                self.target.copy_(held.view(self.dtype).as_strided(self.target.shape, self.strides))


def landings(
    name: str,
    dtype: str,
    chunk: SavedChunk,
    offsets: Sequence[int],
    target: Tensor,
    *,
    aside_bytes: int = ASIDE_BYTES,
) -> Iterator[Landing]:
    """Fill `target` with the box of its shape that begins at `offsets` of `chunk`."""
    if target.numel() == 0:
        return
    torch_dtype, size, strides = dtype_of(dtype), item_bytes(dtype), _strides(chunk.sizes)
    first = sum(offset * stride for offset, stride in zip(offsets, strides, strict=True))
    span = 1 + sum((extent - 1) * stride for extent, stride in zip(target.shape, strides, strict=True))
    is_direct = span == target.numel() and target.dtype == torch_dtype and is_plain_memory(target)
    rows = max(1, aside_bytes // (strides[0] * size)) if strides else 1
    if not is_direct and strides and target.shape[0] > rows:
        for row in range(0, target.shape[0], rows):
            below = (offsets[0] + row, *offsets[1:])
            yield from landings(name, dtype, chunk, below, target[row : row + rows], aside_bytes=aside_bytes)
        return
    start = chunk.start + first * size
    yield Landing(
        blob=chunk.blob,
        start=start,
        stop=start + span * size,
        name=name,
        target=target,
        dtype=torch_dtype,
        strides=strides,
        is_direct=is_direct,
    )


def waves(found: Sequence[Landing], aside_bytes_max: int) -> Iterator[list[Landing]]:
    """In the blobs' order, in groups that need at most so much memory aside (or one landing)."""
    wave: list[Landing] = []
    aside = 0
    for landing in sorted(found, key=lambda landing: (landing.blob, landing.start)):
        if wave and landing.aside and aside + landing.aside > aside_bytes_max:
            yield wave
            wave, aside = [], 0
        wave.append(landing)
        aside += landing.aside
    if wave:
        yield wave


def _strides(sizes: Sequence[int]) -> tuple[int, ...]:
    """In items, of a contiguous box."""
    return tuple(math.prod(sizes[dim + 1 :]) for dim in range(len(sizes)))

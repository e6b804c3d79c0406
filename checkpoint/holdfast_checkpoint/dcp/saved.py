"""Where each tensor of a checkpoint lies: which blobs hold which boxes of it. JSON in a manifest's identity.

A layer's blob of a Holdfast job holds whole tensors; a rank's blob of torch.distributed.checkpoint holds shards.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast_checkpoint.errors import CheckpointError, FormatError

KIND = "dcp"
PathItem = str | int


class MissingError(CheckpointError):
    """A part of a tensor is in no blob, or in more than one; names the tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedChunk:
    """A box of a tensor: `sizes` at `offsets`, in C order from byte `start` of the blob with number `blob`."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    blob: int
    start: int

    @property
    def items(self) -> int:
        return math.prod(self.sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedTensor:
    """`dtype` as safetensors names it."""

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[SavedChunk, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedState:
    """By key of the flattened state dict. `objects`: JSON values. `paths`: of the keys in the nested state dict."""

    tensors: Mapping[str, SavedTensor]
    objects: Mapping[str, Any] = field(default_factory=dict)
    paths: Mapping[str, tuple[PathItem, ...]] = field(default_factory=dict)


def to_identity(state: SavedState) -> dict[str, Any]:
    tensors = {
        name: {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "chunks": [
                {"offsets": list(c.offsets), "sizes": list(c.sizes), "blob": c.blob, "start": c.start}
                for c in tensor.chunks
            ],
        }
        for name, tensor in state.tensors.items()
    }
    paths = {name: list(path) for name, path in state.paths.items() if path != (name,)}
    return {"kind": KIND, "tensors": tensors, "objects": dict(state.objects), "paths": paths}


def from_identity(identity: Mapping[str, Any]) -> SavedState:
    """Raises: FormatError: not what `to_identity` made."""
    try:
        tensors = {name: _tensor(value) for name, value in identity["tensors"].items()}
        objects = dict(identity["objects"])
        paths = {name: (name,) for name in (*tensors, *objects)}
        paths |= {name: tuple(path) for name, path in identity["paths"].items()}
        return SavedState(tensors=tensors, objects=objects, paths=paths)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FormatError(f"the manifest's identity is not one of torch.distributed.checkpoint: {error!r}") from error


def check_covered(name: str, tensor: SavedTensor) -> None:
    """Every item of the tensor is in exactly one chunk. Raises: MissingError."""
    for chunk in tensor.chunks:
        if len(chunk.offsets) != len(tensor.shape) or any(
            offset < 0 or size < 0 or offset + size > extent
            for offset, size, extent in zip(chunk.offsets, chunk.sizes, tensor.shape, strict=True)
        ):
            raise MissingError(f"tensor {name!r} of shape {list(tensor.shape)} has a chunk outside of it: {chunk}")
    filled = [chunk for chunk in tensor.chunks if chunk.items]
    items, found = math.prod(tensor.shape), sum(chunk.items for chunk in filled)
    if found != items or _any_overlap(filled):
        raise MissingError(
            f"tensor {name!r} of shape {list(tensor.shape)} is not whole: its chunks hold {found} of {items} items"
            + (", some of them twice" if found >= items else "")
        )


def _any_overlap(chunks: Iterable[SavedChunk]) -> bool:
    """Sweeps along the first dim, so that many row shards are compared with their neighbours alone."""
    ordered = sorted(chunks, key=lambda chunk: chunk.offsets)
    open_: list[SavedChunk] = []
    for chunk in ordered:
        if chunk.offsets:
            open_ = [other for other in open_ if other.offsets[0] + other.sizes[0] > chunk.offsets[0]]
        if any(_overlap(chunk, other) for other in open_):
            return True
        open_.append(chunk)
    return False


def _overlap(one: SavedChunk, other: SavedChunk) -> bool:
    return all(
        a < b + b_size and b < a + a_size
        for a, a_size, b, b_size in zip(one.offsets, one.sizes, other.offsets, other.sizes, strict=True)
    )


def _tensor(value: Mapping[str, Any]) -> SavedTensor:
    chunks = tuple(
        SavedChunk(offsets=tuple(c["offsets"]), sizes=tuple(c["sizes"]), blob=c["blob"], start=c["start"])
        for c in value["chunks"]
    )
    return SavedTensor(dtype=value["dtype"], shape=tuple(value["shape"]), chunks=chunks)

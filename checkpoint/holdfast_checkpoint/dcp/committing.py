"""What all ranks wrote becomes one manifest's identity; nothing that is not whole is committed."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.storage import WriteResult

from holdfast_checkpoint.dcp.saved import (
    MissingError,
    PathItem,
    SavedChunk,
    SavedState,
    SavedTensor,
    check_covered,
    to_identity,
)
from holdfast_checkpoint.manifest import BlobEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenObject:
    """A JSON value, for the manifest."""

    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenTensor:
    """Where a box lies. `entry`: of its blob, told once for each blob."""

    blob: int
    start: int
    dtype: str
    entry: BlobEntry | None


def identity_of(metadata: Metadata, results: Iterable[WriteResult]) -> tuple[dict[str, Any], tuple[BlobEntry, ...]]:
    """The identity, and all blobs by number.

    Raises: MissingError: the plan has what no rank wrote, or the boxes of a tensor do not make up the whole.
    """
    objects: dict[str, Any] = {}
    written: dict[MetadataIndex, WrittenTensor] = {}
    for result in results:
        if isinstance(result.storage_data, WrittenObject):
            objects[result.index.fqn] = result.storage_data.value
        else:
            written[result.index] = result.storage_data
    entries = {one.entry.layer: one.entry for one in written.values() if one.entry is not None}
    tensors = {}
    for name, entry in metadata.state_dict_metadata.items():
        if isinstance(entry, TensorStorageMetadata):
            tensors[name] = _tensor(name, entry, written)
        elif name not in objects:
            raise MissingError(f"{name!r} is in the plan of the save, and no rank wrote it")
    state = SavedState(tensors=tensors, objects=objects, paths=_paths(metadata))
    return to_identity(state), tuple(entries[number] for number in sorted(entries))


def _tensor(name: str, entry: TensorStorageMetadata, written: dict[MetadataIndex, WrittenTensor]) -> SavedTensor:
    chunks, dtypes = [], set()
    for chunk in entry.chunks:
        found = written.get(MetadataIndex(name, chunk.offsets))
        if found is None:
            raise MissingError(f"tensor {name!r}: the part at {list(chunk.offsets)} was written by no rank")
        dtypes.add(found.dtype)
        # Ranks beyond the end of a small tensor hold nothing of it.
        if chunk.sizes.numel() or not entry.size.numel():
            chunks.append(_chunk(chunk, found))
    if len(dtypes) != 1:
        raise MissingError(f"tensor {name!r} was written as {sorted(dtypes)}; one dtype is due")
    tensor = SavedTensor(dtype=dtypes.pop(), shape=tuple(entry.size), chunks=tuple(chunks))
    check_covered(name, tensor)
    return tensor


def _chunk(chunk: ChunkStorageMetadata, found: WrittenTensor) -> SavedChunk:
    return SavedChunk(offsets=tuple(chunk.offsets), sizes=tuple(chunk.sizes), blob=found.blob, start=found.start)


def _paths(metadata: Metadata) -> dict[str, tuple[PathItem, ...]]:
    """A planner that flattens says where each key came from; another one's data is its own affair."""
    data = metadata.planner_data if isinstance(metadata.planner_data, dict) else {}
    return {
        name: tuple(data[name]) if isinstance(data.get(name), tuple) else (name,)
        for name in metadata.state_dict_metadata
    }

"""What a checkpoint holds, whichever program wrote it: a Holdfast job, or torch.distributed.checkpoint.

Of a job: weights are `<layer>.<parameter>`, optimizer state is `optim.<layer>.<parameter>.<key>`.
"""

import json
from collections.abc import Sequence
from typing import Any

from holdfast_checkpoint.dcp.ranges import Wanted, read_ranges
from holdfast_checkpoint.dcp.saved import KIND, SavedChunk, SavedState, SavedTensor, check_covered, from_identity
from holdfast_checkpoint.dcp.sources import Source
from holdfast_checkpoint.dtypes import item_bytes
from holdfast_checkpoint.errors import CorruptError, FormatError
from holdfast_checkpoint.header import Header, TensorPlace, header_bytes, parse
from holdfast_checkpoint.manifest import BlobEntry, Manifest

OPTIMIZER = "optim."
_MODEL = "model."
_HEADER_BYTES = 64 << 10  # most headers are shorter


def saved_state(sources: Sequence[Source], manifest: Manifest, where: str) -> SavedState:
    """Every tensor of it is whole, by what the manifest says. `where`: of the checkpoint, for messages.

    Raises: FormatError, MissingError, CorruptError, StorageError.
    """
    state = _of_job(sources, manifest) if is_of_job(manifest) else from_identity(manifest.identity)
    blobs = {entry.layer: entry for entry in manifest.blobs}
    for name, tensor in state.tensors.items():
        check_covered(name, tensor)
        for chunk in tensor.chunks:
            _check_inside(name, tensor, chunk, blobs, where)
    return state


def is_of_job(manifest: Manifest) -> bool:
    return manifest.identity.get("kind") != KIND


def _of_job(sources: Sequence[Source], manifest: Manifest) -> SavedState:
    headers = _headers(sources, manifest.blobs)
    tensors: dict[str, SavedTensor] = {}
    objects: dict[str, Any] = {}
    for entry, header in zip(manifest.blobs, headers, strict=True):
        for place in header.tensors:
            tensors[_name(entry.name, place.name)] = _whole(entry, header, place)
        scalars = json.loads(header.metadata.get("scalars", "{}"))
        objects |= {_name(entry.name, name): value for name, value in scalars.items()}
    paths = {name: (name,) for name in (*tensors, *objects)}
    return SavedState(tensors=tensors, objects=objects, paths=paths)


def _headers(sources: Sequence[Source], entries: Sequence[BlobEntry]) -> list[Header]:
    """Verified, as everything is."""
    starts = _starts(sources, entries, [min(entry.size, _HEADER_BYTES) for entry in entries])
    ends = [header_bytes(bytes(start[:8])) for start in starts]
    for entry, end in zip(entries, ends, strict=True):
        if end > entry.size:
            raise FormatError(f"{sources[-1].what(entry)} has {entry.size} bytes, and its header would have {end}")
    long = [index for index, end in enumerate(ends) if end > len(starts[index])]
    more = _starts(sources, [entries[index] for index in long], [ends[index] for index in long])
    whole = dict(enumerate(starts)) | dict(zip(long, more, strict=True))
    return [parse(memoryview(whole[index])) for index in range(len(entries))]


def _starts(sources: Sequence[Source], entries: Sequence[BlobEntry], sizes: Sequence[int]) -> list[bytearray]:
    starts = [bytearray(size) for size in sizes]
    read_ranges(
        [
            Wanted(entry=entry, start=0, view=memoryview(start), name=entry.name)
            for entry, start in zip(entries, starts, strict=True)
        ],
        sources,
    )
    return starts


def _name(layer: str, name: str) -> str:
    """Of a tensor of a layer, in the whole model."""
    if name.startswith(_MODEL):
        return f"{layer}.{name.removeprefix(_MODEL)}"
    if not name.startswith(OPTIMIZER):
        raise FormatError(f"layer {layer!r} holds {name!r}, which is neither model nor optimizer state")
    key, _, parameter = name.removeprefix(OPTIMIZER).partition(".")
    return f"{OPTIMIZER}{layer}.{parameter}.{key}"


def _whole(entry: BlobEntry, header: Header, place: TensorPlace) -> SavedTensor:
    start = header.data_start + place.start
    chunk = SavedChunk(offsets=(0,) * len(place.shape), sizes=place.shape, blob=entry.layer, start=start)
    return SavedTensor(dtype=place.dtype, shape=place.shape, chunks=(chunk,))


def _check_inside(name: str, tensor: SavedTensor, chunk: SavedChunk, blobs: dict[int, BlobEntry], where: str) -> None:
    entry, size = blobs.get(chunk.blob), chunk.items * item_bytes(tensor.dtype)
    if entry is None or not 0 <= chunk.start <= entry.size - size:
        raise CorruptError(
            f"{where}: {size} bytes of tensor {name!r} at {chunk.start} of blob {chunk.blob} are not there"
        )

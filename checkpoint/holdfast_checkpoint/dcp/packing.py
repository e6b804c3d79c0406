"""A rank's tensors as blobs: safetensors files, made in memory and checksummed while they are made."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.distributed.checkpoint.planner import WriteItem, WriteItemType

from holdfast_checkpoint.digest import Digest, Hasher
from holdfast_checkpoint.dtypes import bytes_of, is_plain_memory, item_bytes, name_of
from holdfast_checkpoint.header import Header, lay_out

# Of a digest. Ranks that load another sharding want slices of the tensors in a blob, and read and verify whole chunks.
CHUNK_BYTES = 512 << 10
# Small enough to be in the cache when it is written after it was checksummed.
_PIECE_BYTES = 512 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One box of a tensor: `tensor` is what lies at `offsets` of `key`, whose shape is `shape`."""

    key: str
    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    tensor: Tensor

    @property
    def name(self) -> str:
        """In the blob: the key itself if the box is the whole tensor."""
        is_whole = tuple(self.tensor.shape) == self.shape
        return self.key if is_whole else f"{self.key}@{','.join(map(str, self.offsets))}"

    @property
    def dtype(self) -> str:
        return name_of(self.tensor.dtype, f"tensor {self.key!r}")


def grouped(items: Sequence[WriteItem], blob_bytes: int) -> Iterator[list[WriteItem]]:
    """Tensors in the order given, in blobs of up to `blob_bytes` (or one tensor); the same on every rank."""
    group: list[WriteItem] = []
    size = 0
    for item in items:
        if item.type == WriteItemType.BYTE_IO:
            continue
        item_size = planned_bytes(item)
        if group and size + item_size > blob_bytes:
            yield group
            group, size = [], 0
        group.append(item)
        size += item_size
    if group:
        yield group


def planned_bytes(item: WriteItem) -> int:
    data = item.tensor_data
    assert data is not None, "a tensor's item says what it is"
    return data.chunk.sizes.numel() * data.properties.dtype.itemsize


def laid_out(parts: Sequence[Part], step: int) -> tuple[Header, bytes]:
    """Widest items first, so that each is aligned. Boxes that are not whole tensors are told in the metadata."""
    parts = sorted(parts, key=lambda part: -item_bytes(part.dtype))
    boxes = {
        part.name: {"tensor": part.key, "offsets": list(part.offsets), "shape": list(part.shape)}
        for part in parts
        if part.name != part.key
    }
    metadata = {"format": "pt", "step": str(step)} | ({"boxes": json.dumps(boxes)} if boxes else {})
    return lay_out([(part.name, part.dtype, tuple(part.tensor.shape)) for part in parts], metadata)


def write_parts(fd: int, parts: Sequence[Part], header: Header, head: bytes) -> Digest:
    """The whole blob, from the begin of the file; each tensor is brought to the CPU when its turn comes."""
    writer = _Writer(fd)
    writer.write(memoryview(head))
    tensors = {part.name: part.tensor for part in parts}
    for place in header.tensors:
        tensor = tensors[place.name].detach()
        if not is_plain_memory(tensor):
            tensor = tensor.cpu().resolve_conj().resolve_neg().contiguous()
        writer.write(bytes_of(tensor))
    return writer.digest()


class _Writer:
    def __init__(self, fd: int) -> None:
        self._fd, self._at, self._hasher = fd, 0, Hasher(CHUNK_BYTES)

    def write(self, data: memoryview) -> None:
        for start in range(0, len(data), _PIECE_BYTES):
            piece = data[start : start + _PIECE_BYTES]
            self._hasher.update(piece)
            while piece:
                count = os.pwrite(self._fd, piece, self._at)
                self._at += count
                piece = piece[count:]

    def digest(self) -> Digest:
        return self._hasher.digest()

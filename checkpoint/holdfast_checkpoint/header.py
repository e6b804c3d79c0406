"""The header of a safetensors file: what lies where. Read and made without torch, and without the data.

Format: 8 bytes of little-endian length, then that many bytes of JSON (padded with spaces), then the data.
https://huggingface.co/docs/safetensors
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from holdfast_checkpoint.errors import FormatError

LENGTH = struct.Struct("<Q")
HEADER_BYTES_MAX = 100 << 20  # as the reference implementation has it
_ALIGN = 64  # of the data's begin: tensors mapped from a file can be used as they lie
_METADATA = "__metadata__"
_ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlace:
    """`dtype` as safetensors names it (F32); bytes [start, stop) count from the begin of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """`tensors` by where they lie; `data_start` counts from the begin of the file, as does `size`, its end."""

    tensors: tuple[TensorPlace, ...]
    data_start: int
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return self.data_start + (self.tensors[-1].stop if self.tensors else 0)


def lay_out(tensors: Sequence[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str]) -> tuple[Header, bytes]:
    """Places for (name, dtype, shape) in the order given, and the file's bytes before its data.

    Wide types should come first, so that each tensor is aligned to its items (safetensors packs without gaps).
    """
    places, at = [], 0
    for name, dtype, shape in tensors:
        size = _bytes_of(dtype, shape)
        places.append(TensorPlace(name=name, dtype=dtype, shape=tuple(shape), start=at, stop=at + size))
        at += size
    entries: dict[str, object] = {_METADATA: dict(metadata)} if metadata else {}
    for place in places:
        entries[place.name] = {
            "dtype": place.dtype, "shape": list(place.shape), "data_offsets": [place.start, place.stop]
        }  # fmt: skip
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(LENGTH.size + len(text)) % _ALIGN)
    header = Header(tensors=tuple(places), data_start=LENGTH.size + len(text), metadata=dict(metadata))
    return header, LENGTH.pack(len(text)) + text


def header_bytes(start: bytes) -> int:
    """How many bytes, from the begin of the file, hold the header. `start`: its first 8 bytes.

    Raises: FormatError.
    """
    if len(start) < LENGTH.size:
        raise FormatError(f"not a safetensors file: it has {len(start)} bytes")
    (length,) = LENGTH.unpack(start[: LENGTH.size])
    if not 2 <= length <= HEADER_BYTES_MAX:
        raise FormatError(f"not a safetensors file: its header would have {length} bytes")
    return LENGTH.size + int(length)


def parse(data: bytes | memoryview) -> Header:
    """The header of a file of which `data` holds the begin, at least the whole header.

    Raises: FormatError: not safetensors, or tensors that overlap or leave gaps.
    """
    end = header_bytes(bytes(data[: LENGTH.size]))
    try:
        entries = json.loads(bytes(data[LENGTH.size : end]))
        metadata = entries.pop(_METADATA, {})
        places = sorted(
            (
                TensorPlace(
                    name=name,
                    dtype=entry["dtype"],
                    shape=tuple(entry["shape"]),
                    start=entry["data_offsets"][0],
                    stop=entry["data_offsets"][1],
                )
                for name, entry in entries.items()
            ),
            key=lambda place: (place.start, place.stop),
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise FormatError(f"not a safetensors header: {error!r}") from error
    at = 0
    for place in places:
        if place.start != at or place.stop - place.start != _bytes_of(place.dtype, place.shape):
            raise FormatError(f"tensor {place.name!r} does not lie where its shape says")
        at = place.stop
    return Header(tensors=tuple(places), data_start=end, metadata=metadata)


def _bytes_of(dtype: str, shape: Sequence[int]) -> int:
    if dtype not in _ITEM_BYTES:
        raise FormatError(f"dtype {dtype!r} is none of {', '.join(_ITEM_BYTES)}")
    size = _ITEM_BYTES[dtype]
    for extent in shape:
        size *= extent
    return size

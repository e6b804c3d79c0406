"""Compares two checkpoints layer by layer and tensor by tensor, reading both in order with a few chunks in memory."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from holdfast.cli.checkpoints.numbers import Apart, apart
from holdfast.cli.checkpoints.showing import flattened
from holdfast_checkpoint.digest import chunks_of
from holdfast_checkpoint.errors import FormatError
from holdfast_checkpoint.header import Header, TensorPlace
from holdfast_checkpoint.manifest import BlobEntry, Manifest
from holdfast_checkpoint.remote import Repository

OnBytes = Callable[[int], None]

# A multiple of every item's size. With two sides and their numbers as float64, about ten of these are in memory.
_PIECE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two checkpoints."""

    repository: Repository
    folder: str
    manifest: Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """`what` is 'only in a', 'only in b', 'dtype or shape', 'scalar' or 'values'; `apart` is there for values alone.

    `name` is that of a tensor or scalar; empty if it is about the whole layer.
    """

    layer: str
    name: str
    what: str
    a: str | None = None
    b: str | None = None
    apart: Apart | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerComparison:
    """`same`: how many tensors are, bit for bit; None if the layer was not read, since its digests are equal."""

    layer: str
    same: int | None
    changes: tuple[Change, ...] = ()


def identity_changes(a: Manifest, b: Manifest) -> dict[str, tuple[Any, Any]]:
    """Dotted path to the values on both sides, where they differ; None stands for what is not there."""
    left, right = dict(flattened(a.identity)), dict(flattened(b.identity))
    return {
        path: (left.get(path), right.get(path))
        for path in dict.fromkeys([*left, *right])
        if left.get(path) != right.get(path)
    }


def bytes_to_read(a: Side, b: Side) -> int:
    return sum(left.size + right.size for left, right in _pairs(a, b) if left and right and left.digest != right.digest)


def compare_layers(a: Side, b: Side, on_bytes: OnBytes) -> Iterator[LayerComparison]:
    """One after the other, in the model's order, those that only `b` has at the end.

    Raises: CheckpointError: a blob of either side cannot be read or is corrupt.
    """
    for left, right in _pairs(a, b):
        if left is None or right is None:
            held = left or right
            assert held is not None
            what = "only in a" if right is None else "only in b"
            yield LayerComparison(layer=held.name, same=None, changes=(Change(layer=held.name, name="", what=what),))
        elif left.digest == right.digest:
            yield LayerComparison(layer=left.name, same=None)
        else:
            yield _compare(left.name, _Blob(a, left, on_bytes), _Blob(b, right, on_bytes))


def _pairs(a: Side, b: Side) -> Iterator[tuple[BlobEntry | None, BlobEntry | None]]:
    left, right = ({entry.name: entry for entry in side.manifest.blobs} for side in (a, b))
    for name in dict.fromkeys([*left, *right]):
        yield left.get(name), right.get(name)


class _Blob:
    """A blob read in order, with its last chunk kept, so that none is read twice."""

    def __init__(self, side: Side, entry: BlobEntry, on_bytes: OnBytes) -> None:
        self._side, self._entry, self._on_bytes = side, entry, on_bytes
        self._chunk: tuple[int, bytes] = (-1, b"")
        self.header: Header = side.repository.read_header(side.folder, entry)

    def read(self, place: TensorPlace, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a tensor."""
        first, last = (self.header.data_start + place.start + at for at in (start, stop))
        return b"".join(
            self._read_chunk(chunk, begin, end)[max(first - begin, 0) : last - begin]
            for chunk, begin, end in chunks_of(self._entry.digest, first, last)
        )

    def _read_chunk(self, chunk: int, begin: int, end: int) -> bytes:
        if self._chunk[0] != chunk:
            self._chunk = chunk, self._side.repository.read_range(self._side.folder, self._entry, begin, end)
            self._on_bytes(end - begin)
        return self._chunk[1]


def _compare(layer: str, a: _Blob, b: _Blob) -> LayerComparison:
    changes = list(_scalar_changes(layer, a.header, b.header))
    same = 0
    places = {place.name: place for place in b.header.tensors}
    for left in a.header.tensors:
        right = places.pop(left.name, None)
        change = _tensor_change(layer, a, left, b, right)
        if change is None:
            same += 1
        else:
            changes.append(change)
    changes += [Change(layer=layer, name=name, what="only in b") for name in places]
    return LayerComparison(layer=layer, same=same, changes=tuple(changes))


def _tensor_change(layer: str, a: _Blob, left: TensorPlace, b: _Blob, right: TensorPlace | None) -> Change | None:
    """None: they are the same, bit for bit."""
    if right is None:
        return Change(layer=layer, name=left.name, what="only in a")
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return Change(layer=layer, name=left.name, what="dtype or shape", a=_form(left), b=_form(right))
    found = Apart()
    size = left.stop - left.start
    for start in range(0, size, _PIECE_BYTES):
        stop = min(start + _PIECE_BYTES, size)
        found += apart(a.read(left, start, stop), b.read(right, start, stop), left.dtype)
    return Change(layer=layer, name=left.name, what="values", apart=found) if found.differing else None


def _scalar_changes(layer: str, a: Header, b: Header) -> Iterator[Change]:
    """Of the optimizer state that is no tensor. The rest of a blob's metadata says whose it is, not what."""
    left, right = _scalars(a), _scalars(b)
    for name in dict.fromkeys([*left, *right]):
        if left.get(name) != right.get(name):
            yield Change(layer=layer, name=name, what="scalar", a=_json(left, name), b=_json(right, name))


def _scalars(header: Header) -> dict[str, Any]:
    try:
        return dict(json.loads(header.metadata.get("scalars", "{}")))
    except (ValueError, TypeError) as error:
        raise FormatError(f"a blob's metadata has scalars that are no JSON object: {error}") from error


def _json(scalars: dict[str, Any], name: str) -> str | None:
    return json.dumps(scalars[name]) if name in scalars else None


def _form(place: TensorPlace) -> str:
    return f"{place.dtype}{list(place.shape)}"

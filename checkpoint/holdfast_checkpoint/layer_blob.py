"""One layer as a blob: which bytes come before the data, where each tensor lies, and how to read them back.

The bytes of a blob depend on nothing but the layer's state, its step and its generation, so that copies of one version
are equal wherever they were made, and ranges of one can be completed from another.
"""

import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from holdfast_checkpoint.dtypes import dtype_of, is_known, name_of
from holdfast_checkpoint.errors import FormatError
from holdfast_checkpoint.header import LENGTH, TensorPlace, lay_out, parse
from holdfast_checkpoint.stamp import METADATA

# The data begins at a page's begin: a counter in the metadata that gets longer seldom moves it.
_PAGE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerState:
    """Of one layer: live views, and optimizer state that is no tensor (JSON values)."""

    name: str
    tensors: Mapping[str, Tensor]
    scalars: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBlob:
    """What a blob holds. `devices`: the kind of device each tensor lay on that was not on the CPU, by tensor."""

    name: str
    step: int
    generation: int
    tensors: dict[str, Tensor]
    scalars: dict[str, object]
    devices: dict[str, str] = field(default_factory=dict)


class BlobForm:
    """Where the tensors of one layer lie in its blob; good for every state with the same names, types and shapes."""

    def __init__(self, state: LayerState) -> None:
        """Raises: FormatError: a tensor that no blob can hold."""
        self._signature = _signature(state)
        # Wide types first: then each tensor is aligned to its items.
        order = sorted(state.tensors, key=lambda name: (-state.tensors[name].element_size(), name))
        entries = [(name, _dtype_name(state, name), tuple(state.tensors[name].shape)) for name in order]
        header, text = lay_out(entries, {})
        self.places: tuple[TensorPlace, ...] = header.tensors  # counted from the begin of the data
        self._entries = text[LENGTH.size :].strip()
        devices = {name: tensor.device.type for name, tensor in sorted(state.tensors.items())}
        self._devices = json.dumps({name: kind for name, kind in devices.items() if kind != "cpu"})

    def fits(self, state: LayerState) -> bool:
        return self._signature == _signature(state)

    @property
    def data_bytes(self) -> int:
        return self.places[-1].stop if self.places else 0

    def head(self, state: LayerState, step: int, generation: int) -> bytes:
        """All bytes before the data. Step and generation come first: see `stamp`.

        Raises: FormatError: a scalar that is no JSON value.
        """
        metadata = {
            "step": str(step),
            "generation": str(generation),
            "layer": state.name,
            "devices": self._devices,
            "scalars": _scalars_json(state),
        }
        text = json.dumps({METADATA: metadata}, separators=(",", ":")).encode()
        if self.places:
            text = text[:-1] + b"," + self._entries[1:]
        text += b" " * (-(LENGTH.size + len(text)) % _PAGE)
        return LENGTH.pack(len(text)) + text


def read_layer(blob: memoryview | mmap.mmap | bytes | bytearray) -> LayerBlob:
    """The tensors are views on `blob` where it may be written (see `map_blob`), copies otherwise. Not verified.

    Raises: FormatError: not a blob of a layer.
    """
    view = memoryview(blob).cast("B")
    header = parse(view)
    if header.size != len(view):
        raise FormatError(f"the blob has {len(view)} bytes, and its header tells of {header.size}")
    tensors = {place.name: _tensor(view[header.data_start :], place) for place in header.tensors}
    try:
        return LayerBlob(
            name=header.metadata["layer"],
            step=int(header.metadata["step"]),
            generation=int(header.metadata["generation"]),
            tensors=dict(sorted(tensors.items())),
            scalars=json.loads(header.metadata["scalars"]),
            devices=json.loads(header.metadata["devices"]),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise FormatError(f"not the blob of a layer: its metadata lacks or mistells {error}") from error


def map_blob(path: str) -> mmap.mmap:
    """A private mapping: what is written to its tensors never reaches the file.

    What is not written still shows the file: nothing of it may be in use once the file's owner writes to it.
    """
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def _tensor(data: memoryview, place: TensorPlace) -> Tensor:
    if not is_known(place.dtype):
        raise FormatError(f"tensor {place.name!r} has dtype {place.dtype}, which this version does not read")
    dtype = dtype_of(place.dtype)
    if place.start == place.stop:
        return torch.empty(place.shape, dtype=dtype)
    piece: Any = data[place.start : place.stop]
    return torch.frombuffer(bytearray(piece) if piece.readonly else piece, dtype=dtype).view(place.shape)


def _signature(state: LayerState) -> tuple[object, ...]:
    return tuple((name, tensor.dtype, tensor.shape, tensor.device.type) for name, tensor in state.tensors.items())


def _dtype_name(state: LayerState, name: str) -> str:
    tensor = state.tensors[name]
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise FormatError(f"layer {state.name!r}: tensor {name!r} is {tensor.layout}; only dense ones can be kept")
    try:
        return name_of(tensor.dtype, f"layer {state.name!r}: tensor {name!r}")
    except ValueError as error:
        raise FormatError(str(error)) from error


def _scalars_json(state: LayerState) -> str:
    try:
        return json.dumps(state.scalars, separators=(",", ":"), sort_keys=True)
    except (TypeError, ValueError) as error:
        for name, value in state.scalars.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError):
                kind = type(value).__name__
                message = f"layer {state.name!r}: {name!r} is a {kind}; optimizer state is tensors and JSON values"
                raise FormatError(message) from error
        raise FormatError(f"layer {state.name!r}: optimizer state has names that are not text") from error

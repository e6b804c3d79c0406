"""Builds real checkpoints of a small model, and breaks them."""

import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast_checkpoint.digest import CHUNK_BYTES, Digest, Hasher
from holdfast_checkpoint.folders import blob_path, folder_of, is_checkpoint
from holdfast_checkpoint.header import lay_out
from holdfast_checkpoint.manifest import BlobEntry, Manifest
from holdfast_checkpoint.remote import Repository

Tensors = Mapping[str, NDArray[np.float32]]

RUN = "3f2a9c1b5d7e4f60a1b2c3d4e5f60718"
WIDTH = 4
IDENTITY: Mapping[str, Any] = {"global_batch": 8, "optimizer": {"name": "Adam", "lr": 0.1}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """What the checkpoints that are made have in common."""

    layers: Sequence[str] = ("first", "middle", "last")
    width: int = WIDTH
    generation: int = 1
    run: str = RUN
    job: str = "small"
    created: str = "2026-01-02T03:04:05+00:00"
    identity: Mapping[str, Any] = field(default_factory=lambda: IDENTITY)
    chunk_bytes: int = CHUNK_BYTES


def make_checkpoint(url: str, step: int, making: Making | None = None) -> str:
    """A committed one of `step`; returns its folder. Its numbers derive from layer, name and step."""
    making = making or Making()
    repository = Repository(url)
    folder = _put_blobs(repository, step, making)
    blobs = [blob_bytes(making, name, step) for name in making.layers]
    manifest = Manifest(
        step=step,
        generation=making.generation,
        run=making.run,
        job=making.job,
        samples=step * 8,
        created=making.created,
        identity=making.identity,
        spec={"name": making.job},
        blobs=tuple(
            BlobEntry(layer=layer, name=name, path=blob_path(layer), digest=_digest(making, blob))
            for layer, (name, blob) in enumerate(zip(making.layers, blobs, strict=True))
        ),
        loss=1 / (1 + step),
        versions={"holdfast": "0.1.0"},
    )
    repository.commit(folder, manifest)
    return folder


def make_unfinished(url: str, step: int, making: Making | None = None) -> str:
    """All blobs and no manifest; returns the folder."""
    return _put_blobs(Repository(url), step, making or Making())


def _put_blobs(repository: Repository, step: int, making: Making) -> str:
    folder = folder_of(step, making.run, making.generation)
    with tempfile.TemporaryDirectory() as scratch:
        for layer, name in enumerate(making.layers):
            source = Path(scratch) / "blob"
            source.write_bytes(blob := blob_bytes(making, name, step))
            repository.put_blob(folder, layer, source, _digest(making, blob))
    return folder


def tensors_of(making: Making, layer: str, step: int) -> dict[str, NDArray[np.float32]]:
    """As a worker names them: a linear layer and its Adam state. Only the first row of `model.weight` moves."""
    seed = np.random.default_rng([ord(letter) for letter in layer])
    weight = seed.standard_normal((making.width, making.width)).astype(np.float32)
    bias = seed.standard_normal(making.width).astype(np.float32)
    weight[0] += np.float32(step)
    return {
        "model.bias": bias,
        "model.weight": weight,
        "optim.exp_avg.bias": bias / np.float32(2),
        "optim.exp_avg.weight": weight / np.float32(2),
    }


def blob_bytes(making: Making, layer: str, step: int) -> bytes:
    """The layer's safetensors file."""
    tensors = tensors_of(making, layer, step)
    metadata = {
        "step": str(step),
        "generation": str(making.generation),
        "layer": layer,
        "devices": "{}",
        "scalars": json.dumps({"optim.step.weight": step}),
    }
    _, head = lay_out([(name, "F32", array.shape) for name, array in tensors.items()], metadata)
    file = io.BytesIO()
    file.write(head)
    for array in tensors.values():
        file.write(array.tobytes())
    return file.getvalue()


def storage_of(url: str) -> Path:
    """Of a file:// URL."""
    return Path(url.removeprefix("file://"))


def folders_of(url: str) -> list[str]:
    """Of all that is there, by step; half-written ones too."""
    return sorted(path.name for path in storage_of(url).iterdir() if is_checkpoint(path.name))


def blob_of(url: str, folder: str, layer: int) -> Path:
    return storage_of(url) / folder / blob_path(layer)


def flip_byte(path: Path, at: int) -> None:
    """Bit 0 of one byte of a file, as a bad disk would; counted from the end if negative."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def _digest(making: Making, blob: bytes) -> Digest:
    hasher = Hasher(making.chunk_bytes)
    hasher.update(blob)
    return hasher.digest()

"""A checkpoint without Holdfast's trainer: as plain tensors, as one safetensors file, as a torch state dict.

Works for checkpoints of Holdfast jobs and for those saved through `holdfast_checkpoint.dcp`. Weights of a job are named
`<layer>.<parameter>`, its optimizer state `optim.<layer>.<parameter>.<key>`; others have the keys they were saved by.
"""

import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast_checkpoint.dcp.catalog import OPTIMIZER, is_of_job
from holdfast_checkpoint.dcp.objects import from_json
from holdfast_checkpoint.dcp.opened import OpenCheckpoint
from holdfast_checkpoint.dcp.saved import SavedTensor
from holdfast_checkpoint.dtypes import bytes_of, dtype_of, item_bytes
from holdfast_checkpoint.errors import MismatchError
from holdfast_checkpoint.header import lay_out
from holdfast_checkpoint.remote import Repository

OnBytes = Callable[[int], None]
_PIECE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedState:
    """State of a whole model after `step` steps, on the CPU.

    `optimizer`: by the name of the weight, then by the optimizer's own key (`exp_avg`): tensors and JSON values.
    """

    step: int
    samples: int
    weights: dict[str, Tensor]
    optimizer: dict[str, dict[str, Any]]


def load_weights(
    url: str | os.PathLike[str], step: int | None = None, *, storage_options: Mapping[str, Any] | None = None
) -> dict[str, Tensor]:
    """Weights and buffers of the newest sound checkpoint, or of that of `step`; every byte verified.

    Raises: NoCheckpointError, CorruptError, StorageError.
    """
    with _open(url, step, storage_options) as opened:
        return _load(opened, _chosen(opened, with_optimizer=False))


def load_state(
    url: str | os.PathLike[str], step: int | None = None, *, storage_options: Mapping[str, Any] | None = None
) -> LoadedState:
    """All of a Holdfast job's state. Raises: as load_weights; MismatchError: it is not a job's checkpoint."""
    with _open(url, step, storage_options) as opened:
        if not is_of_job(opened.manifest):
            raise MismatchError(
                f"{opened.repository.url}/{opened.folder} was saved through torch.distributed.checkpoint: which of its "
                "tensors are optimizer state only its program knows; use dcp.load with HoldfastReader, or load_weights"
            )
        tensors = _load(opened, _chosen(opened, with_optimizer=True))
        optimizer: dict[str, dict[str, Any]] = {}
        objects = {name: from_json(value) for name, value in opened.state.objects.items()}
        for name, value in sorted((tensors | objects).items()):
            if name.startswith(OPTIMIZER):
                parameter, _, key = name.removeprefix(OPTIMIZER).rpartition(".")
                optimizer.setdefault(parameter, {})[key] = value
        return LoadedState(
            step=opened.manifest.step,
            samples=opened.manifest.samples,
            weights={name: tensor for name, tensor in tensors.items() if not name.startswith(OPTIMIZER)},
            optimizer=optimizer,
        )


def export_bytes(repository: Repository, folder: str, *, with_optimizer: bool = False) -> int:
    """How many bytes of tensors an export of that checkpoint writes, for a progress bar."""
    with OpenCheckpoint(repository, folder, repository.read_manifest(folder)) as opened:
        return sum(_size(tensor) for tensor in _chosen(opened, with_optimizer=with_optimizer).values())


def export_safetensors(
    repository: Repository,
    folder: str,
    path: str | os.PathLike[str],
    *,
    with_optimizer: bool = False,
    on_bytes: OnBytes = lambda _: None,
) -> None:
    """One safetensors file, with a piece of 64 MiB in memory at a time, or one tensor if it is larger.

    The file appears once it is whole. What is no tensor is JSON in its metadata, under "objects".

    Raises: NoCheckpointError, CorruptError, StorageError; then there is no file.
    """
    with OpenCheckpoint(repository, folder, repository.read_manifest(folder)) as opened:
        chosen = _chosen(opened, with_optimizer=with_optimizer)
        # Widest items first, then as they lie in the blobs: aligned, and read forwards.
        names = sorted(chosen, key=lambda name: (-item_bytes(chosen[name].dtype), _place(chosen[name])))
        metadata = {"format": "pt", "step": str(opened.manifest.step)}
        if with_optimizer and opened.state.objects:
            metadata["objects"] = json.dumps(dict(opened.state.objects), sort_keys=True)
        _, head = lay_out([(name, chosen[name].dtype, chosen[name].shape) for name in names], metadata)
        with _appearing(path) as partial, partial.open("wb") as file:
            file.write(head)
            for batch in _batches(names, chosen):
                for tensor in _load(opened, {name: chosen[name] for name in batch}).values():
                    data = bytes_of(tensor)
                    for start in range(0, len(data), _PIECE_BYTES):
                        on_bytes(file.write(data[start : start + _PIECE_BYTES]))
            file.flush()
            os.fsync(file.fileno())


def export_torch(
    repository: Repository,
    folder: str,
    path: str | os.PathLike[str],
    *,
    with_optimizer: bool = False,
    on_bytes: OnBytes = lambda _: None,
) -> None:
    """A file for `torch.load(path, weights_only=True)`: a dict of tensors, all in memory at once while it is written.

    Raises: as export_safetensors.
    """
    with OpenCheckpoint(repository, folder, repository.read_manifest(folder)) as opened:
        tensors = _load(opened, _chosen(opened, with_optimizer=with_optimizer))
    with _appearing(path) as partial, partial.open("wb") as file:
        # The one pickle that Holdfast writes: asked for by its name, for programs that read nothing else. Holdfast
        # never reads it, and whoever does needs no more than weights_only=True.
        torch.save(tensors, file)  # noqa: TID251
        file.flush()
        os.fsync(file.fileno())
    on_bytes(sum(tensor.nbytes for tensor in tensors.values()))


def _open(url: str | os.PathLike[str], step: int | None, storage_options: Mapping[str, Any] | None) -> OpenCheckpoint:
    repository = Repository(os.fspath(url), storage_options=storage_options)
    return OpenCheckpoint(repository, *repository.newest(step))


def _chosen(opened: OpenCheckpoint, *, with_optimizer: bool) -> dict[str, SavedTensor]:
    """By name. Of what is no job's checkpoint nobody can say which tensors are the optimizer's: all."""
    everything = with_optimizer or not is_of_job(opened.manifest)
    tensors = opened.state.tensors
    return {name: tensors[name] for name in sorted(tensors) if everything or not name.startswith(OPTIMIZER)}


def _load(opened: OpenCheckpoint, chosen: Mapping[str, SavedTensor]) -> dict[str, Tensor]:
    tensors = {name: torch.empty(saved.shape, dtype=dtype_of(saved.dtype)) for name, saved in chosen.items()}
    opened.read_tensors(list(tensors.items()))
    return tensors


def _batches(names: Sequence[str], chosen: Mapping[str, SavedTensor]) -> Iterator[list[str]]:
    """In order; small tensors together, since what is read and verified at once is a chunk that holds many."""
    batch: list[str] = []
    size = 0
    for name in names:
        if batch and size + _size(chosen[name]) > _PIECE_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += _size(chosen[name])
    if batch:
        yield batch


def _size(tensor: SavedTensor) -> int:
    return torch.Size(tensor.shape).numel() * item_bytes(tensor.dtype)


def _place(tensor: SavedTensor) -> tuple[int, int]:
    return min(((chunk.blob, chunk.start) for chunk in tensor.chunks), default=(0, 0))


@contextmanager
def _appearing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file beside `path`, which takes its name in the end, or is removed."""
    wanted = Path(path)
    partial = wanted.with_name(f".{wanted.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        partial.replace(wanted)
    finally:
        partial.unlink(missing_ok=True)

"""The copying thread's side of a snapshot: carries out one attempt after the other, each whole or not at all."""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from holdfast_checkpoint.buffers import Buffer, LayerBuffers
from holdfast_checkpoint.copying import DeviceCopier, Run, Stopped, copy_from_host
from holdfast_checkpoint.digest import Digest
from holdfast_checkpoint.errors import CheckpointError, StorageError
from holdfast_checkpoint.layer_blob import BlobForm, LayerState
from holdfast_checkpoint.stamp import Version

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenBlob:
    """`fd`: a file in memory of this process whose content is exactly the blob. It stays this one's until it is
    forgotten."""

    layer: int
    fd: int
    digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A whole snapshot, and what it cost: from `begin` until it was whole, and of processor time."""

    step: int
    generation: int
    blobs: tuple[TakenBlob, ...]  # by layer
    copy_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`at`: which of the buffers to write; None: one holds this version already."""

    layer: int
    state: LayerState
    buffers: LayerBuffers
    at: int | None


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One copy of all layers: made in the training thread, carried out in the copying one, then looked at again."""

    version: Version
    targets: tuple[Target, ...]
    kernels: Mapping[torch.device, torch.cuda.Event]  # what the copy must come after
    begun_s: float = field(default_factory=time.perf_counter)
    done: threading.Event = field(default_factory=threading.Event)
    taken: Taken | None = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """A buffer to fill; `arrived`: queued copies from a GPU, if any."""

    target: Target
    buffer: Buffer
    head: bytes
    host_runs: tuple[Run, ...]
    copier: DeviceCopier | None = None
    arrived: torch.cuda.Event | None = None


class Copyist:
    """Keeps what is used again from one attempt to the next."""

    def __init__(self, nice: int, closing: threading.Event) -> None:
        self._nice, self._closing = nice, closing
        self._forms: dict[int, BlobForm] = {}
        self._copiers: dict[torch.device, DeviceCopier] = {}

    def carry_out(self, attempt: Attempt) -> Taken:
        """Raises: StorageError, FormatError, OSError, MemoryError, Stopped."""
        try:
            return self._carry_out(attempt)
        except (CheckpointError, OSError, MemoryError, Stopped):
            raise
        except Exception as error:
            # RuntimeError is torch's word for most of what goes wrong, such as a full GPU, and Python's where no thread
            # can start. Neither is a reason to end the job; the log shows where it was, should it be a bug of ours.
            log.exception("snapshot.copy_failed", extra={"step": attempt.version[0]})
            self._renew_copiers()
            raise copy_failed(error) from error

    def _carry_out(self, attempt: Attempt) -> Taken:
        cpu_begun_s = time.thread_time()
        for device, event in attempt.kernels.items():
            self._copier(device).after(event)
        try:
            # All memory first, and all that GPUs can send meanwhile; then layer by layer.
            prepared = [self._prepare(attempt.version, target) for target in attempt.targets]
            blobs = tuple(
                self._held_already(target, attempt.version) if ready is None else self._fill(ready, attempt.version)
                for target, ready in zip(attempt.targets, prepared, strict=True)
            )
        finally:
            for copier in self._copiers.values():
                copier.settle()
        return Taken(
            step=attempt.version[0],
            generation=attempt.version[1],
            blobs=blobs,
            copy_s=time.perf_counter() - attempt.begun_s,
            cpu_s=time.thread_time() - cpu_begun_s,
        )

    def forget(self, layer: int) -> None:
        """In between attempts."""
        self._forms.pop(layer, None)

    def close(self) -> None:
        """After the last attempt."""
        self._renew_copiers()

    def _renew_copiers(self) -> None:
        """Waits for their threads, which may still read buffers; what is left in their queues no later attempt gets."""
        for copier in self._copiers.values():
            copier.close()
        self._copiers.clear()

    def _prepare(self, version: Version, target: Target) -> _Prepared | None:
        if target.at is None:
            return None
        state, form = target.state, self._form(target)
        head = form.head(state, *version)
        buffer = _buffer_for(target, target.at, len(head) + form.data_bytes)
        runs = [
            Run(tensor=state.tensors[place.name], start=len(head) + place.start, stop=len(head) + place.stop)
            for place in form.places
            if place.start < place.stop
        ]
        on_gpu = [run for run in runs if run.tensor.is_cuda]
        if not on_gpu:
            return _Prepared(target=target, buffer=buffer, head=head, host_runs=tuple(runs))
        assert len({run.tensor.device for run in on_gpu}) == 1, "a layer lies on one GPU"
        copier = self._copier(on_gpu[0].tensor.device)
        return _Prepared(
            target=target,
            buffer=buffer,
            head=head,
            host_runs=tuple(run for run in runs if not run.tensor.is_cuda),
            copier=copier,
            arrived=copier.start(buffer, on_gpu),
        )

    def _fill(self, ready: _Prepared, version: Version) -> TakenBlob:
        buffer = ready.buffer
        if ready.copier is None or ready.arrived is None:
            digest = copy_from_host(buffer, ready.head, ready.host_runs, self._closing.is_set)
        else:
            for run in ready.host_runs:
                run.copy_to(buffer)
            ready.arrived.synchronize()
            if self._closing.is_set():
                raise Stopped
            digest = ready.copier.digest(buffer, ready.head)
        buffer.complete(ready.head, version, digest)
        return TakenBlob(layer=ready.target.layer, fd=buffer.fd, digest=digest)

    def _held_already(self, target: Target, version: Version) -> TakenBlob:
        buffer = target.buffers[target.buffers.versions.index(version)]
        assert buffer.digest is not None
        return TakenBlob(layer=target.layer, fd=buffer.fd, digest=buffer.digest)

    def _form(self, target: Target) -> BlobForm:
        form = self._forms.get(target.layer)
        if form is None or not form.fits(target.state):
            self._forms[target.layer] = form = BlobForm(target.state)
        return form

    def _copier(self, device: torch.device) -> DeviceCopier:
        if device not in self._copiers:
            self._copiers[device] = DeviceCopier(device, self._nice)
        return self._copiers[device]


def copy_failed(error: Exception) -> StorageError:
    return StorageError(f"the copy failed: {type(error).__name__}: {error}")


def _buffer_for(target: Target, at: int, size: int) -> Buffer:
    try:
        return target.buffers.sized(at, f"{target.layer}.{at}", size)
    except OSError as error:
        raise StorageError(
            f"no shared memory for a copy of layer {target.layer} ({target.state.name!r}, {size} bytes): "
            f"{error.strerror}; give the node more memory, or more open files (ulimit -n) if those are the limit"
        ) from error

"""Copies a layer's tensors into a buffer and makes its digest on the way, while the bytes are in the cache.

Of a long piece it is the source that is there: the copy itself goes past the caches (`tunables`). What became of a copy
on its way to memory its reader sees.

Long pieces are moved and hashed without the GIL; of each, the training thread feels some microseconds of Python.
"""

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import torch
import xxhash
from torch import Tensor

from holdfast_checkpoint.buffers import Buffer
from holdfast_checkpoint.digest import CHUNK_BYTES, Digest, Hasher
from holdfast_checkpoint.tunables import STREAMED_BYTES

# Small enough for a core's own cache with room to spare (measured: from 1 MiB on, hashing costs twice as much), large
# enough that the GIL is not taken back too often: while the training thread runs Python, each time can take 5 ms.
PIECE_BYTES = 512 << 10
# Shorter runs are moved with the GIL held: to give it away and wait for it would cost more.
_SHORT_BYTES = 32 << 10
_HASHING_THREADS_MAX = 6

_short_move = ctypes.PyDLL(None).memmove
_short_move.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_short_move.restype = ctypes.c_void_p


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One tensor that goes to bytes [start, stop) of the blob."""

    tensor: Tensor
    start: int
    stop: int

    def advance(self, buffer: Buffer, at: int, end: int) -> tuple[int, memoryview | None]:
        """Copy what belongs to [at, end) of the blob, or more; where that ended, and the bytes that were copied, where
        the copy is not in the cache."""
        tensor, stop = self.tensor, min(self.stop, end)
        if not tensor.is_cpu or not tensor.is_contiguous() or tensor.is_conj() or tensor.is_neg():
            self.copy_to(buffer)
            return self.stop, None
        source, size = tensor.data_ptr() + at - self.start, stop - at
        _move(buffer.address + at, source, size)
        return stop, memoryview((ctypes.c_char * size).from_address(source)) if size >= STREAMED_BYTES else None

    def copy_to(self, buffer: Buffer, non_blocking: bool = False) -> None:
        place = buffer.bytes[self.start : self.stop].view(self.tensor.dtype).view(self.tensor.shape)
        place.copy_(self.tensor, non_blocking=non_blocking)


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The copy was given up."""


def copy_from_host(buffer: Buffer, head: bytes, runs: Sequence[Run], is_stopped: Callable[[], bool]) -> Digest:
    """All `runs` (by start, without gaps, after `head`) into `buffer`; `head` itself is hashed, not written.

    Raises: Stopped.
    """
    hasher = Hasher()
    hasher.update(head)
    at = hashed = len(head)
    left = iter(runs)
    run = next(left, None)
    for window in range(0, buffer.size, PIECE_BYTES):
        end = min(window + PIECE_BYTES, buffer.size)
        while run is not None and at < end:
            begun = at
            at, streamed = run.advance(buffer, at, end)
            if streamed is not None:
                hasher.update(buffer.view[hashed:begun])
                hasher.update(streamed)
                hashed = at
            if at == run.stop:
                run = next(left, None)
        if hashed < end:
            hasher.update(buffer.view[hashed:end])
            hashed = end
        if is_stopped():
            raise Stopped
    return hasher.digest()


def _move(target: int, source: int, size: int) -> None:
    (_short_move if size < _SHORT_BYTES else ctypes.memmove)(target, source, size)


class DeviceCopier:
    """Copies from one CUDA device on a stream of its own, which training's kernels do not wait for."""

    def __init__(self, device: torch.device, nice: int) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        # One core hashes slower than a GPU sends; chunks are independent of each other.
        threads = max(1, min(_HASHING_THREADS_MAX, (os.cpu_count() or 2) // 2))
        self._pool = ThreadPoolExecutor(
            threads, thread_name_prefix="snapshot-hash", initializer=yield_to_training, initargs=(nice,)
        )

    def after(self, event: torch.cuda.Event) -> None:
        """What follows waits for the kernels before `event`."""
        self._stream.wait_event(event)

    def start(self, buffer: Buffer, runs: Sequence[Run]) -> torch.cuda.Event:
        """Queue the copies of `runs`; their tensors must live until the event has come."""
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            buffer.pin()
            for run in runs:
                run.copy_to(buffer, non_blocking=True)
            event = torch.cuda.Event(blocking=True)
            event.record()
        return event

    def digest(self, buffer: Buffer, head: bytes) -> Digest:
        """Of what is in `buffer`, with `head` in its place."""
        return digest_by_chunks(buffer, head, self._pool)

    def settle(self) -> None:
        """Wait for all that was started: until then neither its tensors nor its buffers may go."""
        self._stream.synchronize()

    def close(self) -> None:
        self._pool.shutdown()


def digest_by_chunks(buffer: Buffer, head: bytes, pool: Executor) -> Digest:
    """Of what is in `buffer`, with `head` in its place; chunks side by side."""

    def of_chunk(start: int) -> str:
        stop = start + CHUNK_BYTES
        hasher = xxhash.xxh3_128(head[start:stop])
        hasher.update(buffer.view[max(start, min(len(head), stop)) : stop])
        return hasher.hexdigest()

    return Digest(size=buffer.size, chunks=tuple(pool.map(of_chunk, range(0, buffer.size, CHUNK_BYTES))))


def yield_to_training(nice: int) -> None:
    """Lower this thread's priority by so much: on Linux it belongs to the thread."""
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + nice))

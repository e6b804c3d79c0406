"""Snapshots: a worker's copies of its layers in shared memory, made while training goes on.

State changes only where a step is committed, so the copy runs beside the next forward and backward, on a thread of its
own, and `wait` comes before the next commit. A copy is whole or is no copy: see `buffers`.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from queue import SimpleQueue

import torch

from holdfast_checkpoint.buffers import LayerBuffers
from holdfast_checkpoint.copying import yield_to_training
from holdfast_checkpoint.copyist import Attempt, Copyist, Taken, TakenBlob, Target, copy_failed
from holdfast_checkpoint.layer_blob import LayerState
from holdfast_checkpoint.sparing import choose
from holdfast_checkpoint.stamp import Version

__all__ = ["LayerState", "Snapshotter", "Taken", "TakenBlob"]

_BEAT_S = 0.05
_NICE = 10  # where cores are scarce, training goes first


class Snapshotter:
    """One for each worker; all methods are for the training thread."""

    def __init__(self, nice: int = _NICE, folder: Path | None = None) -> None:
        """`folder`: on tmpfs, where the copies outlive this process, and whoever else has them open."""
        self._nice, self._folder = nice, folder
        self._buffers: dict[int, LayerBuffers] = {}
        self._queue: SimpleQueue[Attempt | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._begun: Attempt | None = None
        self._closing = threading.Event()
        self._copyist = Copyist(nice, self._closing)

    def begin(self, step: int, generation: int, layers: Mapping[int, LayerState], keep: tuple[int, int] | None) -> None:
        """Start to copy; never over a buffer that holds version `keep`. Of a layer that has this version: nothing.

        The caller has waited for the one before, and changes no tensor until `wait` has returned. Whoever else lists
        what `overwrites` tells has been told before.
        """
        assert self._begun is None, "one copy at a time: wait() comes first"
        attempt = Attempt(
            version=(step, generation),
            targets=tuple(
                self._target(layer, state, (step, generation), keep) for layer, state in sorted(layers.items())
            ),
            kernels=_kernels_so_far(layers.values()),
        )
        self._begun = attempt
        try:
            self._start_thread()
        except RuntimeError as error:  # no more threads for now; `wait` tells
            attempt.error = copy_failed(error)
            attempt.error.__cause__ = error
            attempt.done.set()
            return
        self._queue.put(attempt)

    @property
    def is_done(self) -> bool:
        """Whether `wait` would return at once."""
        return self._begun is None or self._begun.done.is_set()

    def wait(self, beat: Callable[[], None]) -> Taken | None:
        """The snapshot begun, once it is whole, without layers forgotten since; None if none was begun.

        Calls `beat` every 50 ms meanwhile. If that raises, the copy goes on and can be waited for again.

        Raises:
            StorageError: no shared memory, or the copy failed in any other way.
            FormatError: state that no blob can hold.
            OSError, MemoryError: what the system refused.
        """
        attempt = self._begun
        if attempt is None:
            return None
        while not attempt.done.wait(_BEAT_S):
            beat()
        self._begun = None
        if attempt.error is not None:
            # Its traceback holds the attempt: in a circle, tensors would live on until the garbage collector comes.
            error, attempt.error = attempt.error, None
            try:
                raise error
            finally:
                del error
        assert attempt.taken is not None
        return self._still_held(attempt.taken)

    def forget(self, layers: Iterable[int]) -> None:
        """Give back the memory of layers that are no longer held, except what others have open.

        Waits for the copy begun, if any: at most as long as it takes.
        """
        if self._begun is not None:
            self._begun.done.wait()
        for layer in layers:
            self._copyist.forget(layer)
            buffers = self._buffers.pop(layer, None)
            if buffers is not None:
                buffers.close()

    def close(self) -> None:
        """Give up the copy begun, if any, and all memory."""
        self._closing.set()
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
        self._begun = None
        self.forget(list(self._buffers))
        self._copyist.close()

    def _target(self, layer: int, state: LayerState, version: Version, keep: Version | None) -> Target:
        buffers = self._buffers.setdefault(layer, LayerBuffers(self._folder))
        return Target(layer=layer, state=state, buffers=buffers, at=choose(buffers.versions, version, keep))

    def _still_held(self, taken: Taken) -> Taken:
        return Taken(
            step=taken.step,
            generation=taken.generation,
            blobs=tuple(blob for blob in taken.blobs if blob.layer in self._buffers),
            copy_s=taken.copy_s,
            cpu_s=taken.cpu_s,
        )

    def _start_thread(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="snapshot", daemon=True)
            thread.start()
            self._thread = thread

    def _work(self) -> None:
        yield_to_training(self._nice)
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """A function of its own, so that nothing holds an attempt's tensors while the thread sleeps."""
        attempt = self._queue.get()
        if attempt is None:
            return False
        try:
            attempt.taken = self._copyist.carry_out(attempt)
        except Exception as error:  # raised in the training thread instead, by wait()
            attempt.error = error
        attempt.done.set()
        return True


def _kernels_so_far(states: Iterable[LayerState]) -> dict[torch.device, torch.cuda.Event]:
    """Of each GPU with state on it, an event behind all that the training thread has asked of it."""
    devices = {tensor.device for state in states for tensor in state.tensors.values() if tensor.is_cuda}
    events = {}
    for device in sorted(devices, key=str):
        events[device] = torch.cuda.Event()
        events[device].record(torch.cuda.current_stream(device))
    return events

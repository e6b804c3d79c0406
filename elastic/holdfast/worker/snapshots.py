"""When a worker takes snapshots, and what it tells its agent of them; the copying itself is `holdfast_checkpoint`'s.

Rules (docs/decisions/0006): all ranks decide alike, from what the vote on a step told all of them. Before a worker
votes, its copy of the snapshot begun last is whole. The kept version is never overwritten; the version begun last
becomes the kept one when a vote shows that it is whole everywhere, with its copies at peers.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from holdfast.model.messages import Copied, FromWorker, SnapshotBegun, SnapshotBlob, Snapshotted, Spoilt, Uploaded
from holdfast.model.records import Commit, StartRecord, Version
from holdfast.spec import JobSpec
from holdfast.worker.layers import HeldLayer
from holdfast_checkpoint.errors import CheckpointError
from holdfast_checkpoint.layer_blob import LayerState
from holdfast_checkpoint.snapshot import Snapshotter, Taken

log = logging.getLogger(__name__)
_INTERVAL_MAX = 10_000
# A snapshot that failed, for want of memory perhaps, is tried again ever more rarely.
_BACKOFF_MAX = 1_024
# For so long a step waits for copies at peers; then they are late, and no snapshot is taken until they are there.
_COPIES_S = 2.0
_LOOK_S = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Of one rank before a vote."""

    uncopied: bool = False  # peers lack copies of its last snapshot
    blocked: bool = False  # the buffer it would overwrite is being uploaded
    uploading: bool = False
    failed: bool = False  # its last snapshot came to nothing
    cost: float = 0.0  # of its last snapshot, in steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Of all ranks: how many say so, and the highest cost."""

    uncopied: int = 0
    blocked: int = 0
    uploading: int = 0
    failed: int = 0
    cost: float = 0.0


class Snapshots:
    """One per worker. `heard` is called by the thread that reads from the agent, all else by who holds the layers."""

    def __init__(
        self,
        spec: JobSpec,
        send: Callable[[FromWorker], None],
        *,
        counts_cpu: bool,
        snapshotter: Snapshotter,
    ) -> None:
        """`counts_cpu`: the copying thread competes with training for cores."""
        self._settings, self._send, self._counts_cpu = spec.snapshots, send, counts_cpu
        self._checkpoint_every = spec.checkpoints.every if spec.checkpoints.url is not None else 0
        self._snapshotter = snapshotter
        self._kept: Version | None = None
        self._begun: Version | None = None  # the last one; None: of no use any more
        self._layers: frozenset[int] = frozenset()  # that it has
        self._told: Snapshotted | None = None  # of it, once it is whole
        self._generation = 0
        self._copied: Copied | None = None
        self._spoilt: Version | None = None
        self._uploading: Version | None = None
        self._for_checkpoint = False
        self._loss: float | None = None
        self._failed = False
        # What follows is alike on all ranks of a generation.
        self._taken_step: int | None = None  # of the last snapshot in this generation
        self._due_step = 0  # none before this one
        self._checkpoint_step = self._checkpoint_before = 0  # of the last one begun, and before it
        self._backoff = 1
        self._waits = False  # one is due, and the last one's copies are late
        self._spent_s = 0.0  # on the last snapshot
        self._voted_s: float | None = None
        self._step_s = 0.0

    @property
    def is_on(self) -> bool:
        return self._settings.every != 0 or self._checkpoint_every > 0

    def heard(self, message: Copied | Spoilt | Uploaded) -> None:
        if isinstance(message, Copied):
            self._copied = message
        elif isinstance(message, Spoilt):
            self._spoilt = message.version
        elif self._uploading == message.version:
            self._uploading = None

    def enter(self, start: StartRecord) -> None:
        """A generation begins; what was begun before it counts only if it starts from there."""
        self._kept, self._generation = start.kept, start.generation
        self._checkpoint_step = self._checkpoint_before = start.checkpoint_step
        # Where nobody asked for fixed steps, the first step after a change is not made slower by a copy.
        first = start.version.step + (self._settings.every is None)
        self._taken_step, self._due_step, self._backoff = None, first, 1
        self._failed, self._voted_s = False, None
        if self._begun != start.version:
            self._begun = None

    def settle(self, beat: Callable[[], None], *, with_copies: bool = True) -> None:
        """Until the copy that was begun is whole; from here on layers may change. `beat` may raise: then it stays
        begun. `with_copies`: where snapshots are taken at fixed steps, peers are waited for as well."""
        begun_s = time.monotonic()
        try:
            taken = self._snapshotter.wait(beat)
        except (CheckpointError, OSError, MemoryError) as error:
            log.error("snapshot.failed", extra={"error": str(error)})
            if self._uploading == self._begun:
                self._uploading = None
            self._begun, self._failed = None, True
            return
        if taken is not None:
            self._spent_s += time.monotonic() - begun_s + (taken.cpu_s if self._counts_cpu else 0.0)
            self._tell(taken)
            if self._settings.every and with_copies:
                self._await_copies(beat)

    def _await_copies(self, beat: Callable[[], None]) -> None:
        """Whoever wants snapshots at fixed steps wants them to be there: peers are waited for, if not without end."""
        until_s = time.monotonic() + _COPIES_S
        while not self._is_copied and time.monotonic() < until_s:
            beat()
            time.sleep(_LOOK_S)

    def standing(self) -> Standing:
        """For the vote on a step; called once a step."""
        now_s = time.monotonic()
        if self._voted_s is not None:
            self._step_s = now_s - self._voted_s
        self._voted_s = now_s
        # What was begun in this generation all have begun; before it, some may not have.
        if self._begun is not None and self._spoilt == self._begun:
            self._begun, self._failed = None, True
        begun = self._begun if self._taken_step is not None else None
        spared = begun if begun is not None else self._kept
        return Standing(
            uncopied=begun is not None and not self._is_copied,
            blocked=self._uploading is not None and self._uploading != spared,
            uploading=self._uploading is not None,
            failed=self._failed,
            cost=self._spent_s / self._step_s if self._step_s > 0 else 0.0,
        )

    @property
    def _is_copied(self) -> bool:
        """Whether peers have what was begun last. Of the generation before, other peers did."""
        begun = self._begun
        return begun is None or self._copied == Copied(generation=self._generation, version=begun)

    def is_due(self, step: int, tally: Tally) -> bool:
        """Whether to take a snapshot of the state after `step`: alike on all ranks, from what they have in common."""
        if tally.failed:
            self._begun, self._failed, self._taken_step = None, False, None
            self._checkpoint_step = self._checkpoint_before
            self._due_step, self._backoff = step + self._backoff, min(2 * self._backoff, _BACKOFF_MAX)
        elif not tally.uncopied and self._taken_step is not None:
            self._kept, self._backoff = self._begun, 1
        if not self.is_on or tally.blocked or step < self._due_step:
            return False
        if self._owes_checkpoint(step) and not tally.uploading:
            # Whatever became of copies at peers: they get this one. Of two that are without, the one before is kept.
            if tally.uncopied and self._kept is None:
                self._kept = self._begun
            return True
        if self._settings.every == 0:
            return False
        if self._taken_step is not None and step < self._taken_step + self._interval(tally):
            return False
        if tally.uncopied and not self._waits:
            log.warning("snapshot.waits_for_copies", extra={"step": step, "ranks": tally.uncopied})
        self._waits = tally.uncopied > 0
        return not self._waits

    def begin(self, version: Version, held: Mapping[int, HeldLayer], commit: Commit | None, tally: Tally) -> None:
        """Once it is due and `version` is committed. All of `held` are at `version` and stay there until `settle`."""
        for_checkpoint = self._owes_checkpoint(version.step) and not tally.uploading
        self._taken_step, self._checkpoint_before = version.step, self._checkpoint_step
        if for_checkpoint:
            self._checkpoint_step = version.step
        if self._begun != version or self._told is None or self._layers != frozenset(held):
            self._take(version, held, commit, for_checkpoint=for_checkpoint)
        elif for_checkpoint:  # it is there already
            self._uploading = version
            self._send(replace(self._told, for_checkpoint=True))

    def write_urgently(
        self,
        version: Version,
        held: Mapping[int, HeldLayer],
        beat: Callable[[], None],
        stop_wanted: Callable[[], bool],
    ) -> None:
        """Where nobody trains any more: a snapshot for a checkpoint; returns when the agent has written its share."""
        if not held or self._checkpoint_every == 0:
            return
        self.settle(beat, with_copies=False)
        self._await_upload(beat, stop_wanted)
        if self._uploading is not None:
            return
        if self._begun == version and self._told is not None and self._layers == frozenset(held):
            if not self._told.for_checkpoint:
                self._uploading = version
                self._send(replace(self._told, for_checkpoint=True))
        else:
            self._take(version, held, None, for_checkpoint=True)
            self.settle(beat, with_copies=False)
        self._await_upload(beat, stop_wanted)

    def _await_upload(self, beat: Callable[[], None], stop_wanted: Callable[[], bool]) -> None:
        """It ends, well or not: the agent gives up in time. Whoever is to stop leaves it to the agent."""
        while self._uploading is not None and not stop_wanted():
            beat()
            time.sleep(_LOOK_S)

    def _take(
        self, version: Version, held: Mapping[int, HeldLayer], commit: Commit | None, *, for_checkpoint: bool
    ) -> None:
        begun_s = time.monotonic()
        self._snapshotter.forget(self._layers - frozenset(held))
        self._begun, self._layers, self._told = version, frozenset(held), None
        self._for_checkpoint, self._loss = for_checkpoint, commit.loss if commit is not None else None
        if for_checkpoint:
            self._uploading = version
        self._send(SnapshotBegun(kept=self._kept))
        states = {
            n: LayerState(name=layer.name, tensors=layer.tensors(), scalars=layer.scalars())
            for n, layer in held.items()
        }
        keep = (self._kept.step, self._kept.generation) if self._kept is not None else None
        self._snapshotter.begin(version.step, version.generation, states, keep)
        self._spent_s = time.monotonic() - begun_s

    def _owes_checkpoint(self, step: int) -> bool:
        every = self._checkpoint_every
        return every > 0 and step // every > self._checkpoint_step // every

    def _interval(self, tally: Tally) -> int:
        if self._settings.every is not None:
            return self._settings.every
        return max(1, min(_INTERVAL_MAX, math.ceil(tally.cost / self._settings.overhead)))

    def _tell(self, taken: Taken) -> None:
        blobs = tuple(
            SnapshotBlob(
                layer=blob.layer,
                fd=blob.fd,
                size=blob.digest.size,
                chunk_bytes=blob.digest.chunk_bytes,
                chunks=blob.digest.chunks,
            )
            for blob in taken.blobs
        )
        self._told = Snapshotted(
            version=Version(taken.step, taken.generation),
            blobs=blobs,
            for_checkpoint=self._for_checkpoint,
            loss=self._loss,
            copy_s=taken.copy_s,
        )
        self._send(self._told)

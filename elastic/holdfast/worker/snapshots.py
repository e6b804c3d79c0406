"""Takes a worker's snapshots when `control.snapshotting` says so, and tells its agent of them; the copying itself is
`holdfast_checkpoint`'s."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from holdfast.control.snapshotting import Order, SnapshotRules, Standing, Tally
from holdfast.model.messages import Copied, FromWorker, SnapshotBegun, SnapshotBlob, Snapshotted, Spoilt, Uploaded
from holdfast.model.records import Commit, StartRecord, Version
from holdfast.spec import JobSpec
from holdfast.worker.layers import HeldLayer
from holdfast_checkpoint.errors import CheckpointError
from holdfast_checkpoint.layer_blob import LayerState
from holdfast_checkpoint.snapshot import Snapshotter, Taken

log = logging.getLogger(__name__)
# For so long a step waits for copies at peers; then they are late, and no snapshot is taken until they are there.
_COPIES_S = 2.0
_LOOK_S = 0.001


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
        self._send, self._counts_cpu, self._snapshotter = send, counts_cpu, snapshotter
        self._waits_for_peers = bool(spec.snapshots.every)
        self._rules = SnapshotRules(
            every=spec.snapshots.every,
            overhead=spec.snapshots.overhead,
            checkpoint_every=spec.checkpoints.every if spec.checkpoints.url is not None else 0,
        )
        self._layers: frozenset[int] = frozenset()  # with buffers
        self._order: Order | None = None  # the last copy
        self._loss: float | None = None
        self._told: Snapshotted | None = None  # of it, once it is whole
        self._spent_s = 0.0  # on the last snapshot
        self._voted_s: float | None = None
        self._step_s = 0.0

    @property
    def is_on(self) -> bool:
        return self._rules.is_on

    def heard(self, message: Copied | Spoilt | Uploaded) -> None:
        self._rules.heard(message)

    def enter(self, start: StartRecord) -> None:
        """A generation begins."""
        self._rules.enter(start)
        self._voted_s = None

    def settle(self, beat: Callable[[], None], *, with_copies: bool = True) -> None:
        """Until the copy that was begun is whole; from here on layers may change. `beat` may raise: then it stays
        begun. `with_copies`: where snapshots are taken at fixed steps, peers are waited for as well."""
        begun_s = time.monotonic()
        try:
            taken = self._snapshotter.wait(beat)
        except (CheckpointError, OSError, MemoryError) as error:
            log.error("snapshot.failed", extra={"error": str(error)})
            self._rules.came_to_nothing()
            return
        if taken is not None:
            self._spent_s += time.monotonic() - begun_s + (taken.cpu_s if self._counts_cpu else 0.0)
            self._tell(taken)
            if self._waits_for_peers and with_copies:
                self._await_copies(beat)

    def _await_copies(self, beat: Callable[[], None]) -> None:
        """Whoever wants snapshots at fixed steps wants them to be there: peers are waited for, if not without end."""
        until_s = time.monotonic() + _COPIES_S
        while not self._rules.is_copied and time.monotonic() < until_s:
            beat()
            time.sleep(_LOOK_S)

    def standing(self) -> Standing:
        """For the vote on a step; called once a step."""
        now_s = time.monotonic()
        if self._voted_s is not None:
            self._step_s = now_s - self._voted_s
        self._voted_s = now_s
        return self._rules.standing(self._spent_s / self._step_s if self._step_s > 0 else 0.0)

    def is_due(self, step: int, tally: Tally) -> bool:
        """Whether to take a snapshot of the state after `step`; alike on all ranks."""
        was_late, is_due = self._rules.is_late, self._rules.is_due(step, tally)
        if self._rules.is_late and not was_late:
            log.warning("snapshot.waits_for_copies", extra={"step": step, "ranks": tally.uncopied})
        return is_due

    def begin(self, version: Version, held: Mapping[int, HeldLayer], commit: Commit | None, tally: Tally) -> None:
        """Once it is due and `version` is committed. All of `held` are at `version` and stay there until `settle`."""
        if (order := self._rules.begin(version, held.keys(), tally)) is not None:
            self._carry_out(order, held, commit)

    def write_urgently(
        self,
        version: Version,
        held: Mapping[int, HeldLayer],
        beat: Callable[[], None],
        stop_wanted: Callable[[], bool],
    ) -> None:
        """Where nobody trains any more: a snapshot for a checkpoint; returns when the agent has written its share."""
        if not held or not self._rules.has_storage:
            return
        self.settle(beat, with_copies=False)
        self._await_upload(beat, stop_wanted)
        if self._rules.is_uploading:
            return
        self._carry_out(self._rules.begin_urgently(version, held.keys()), held, None)
        self.settle(beat, with_copies=False)
        self._await_upload(beat, stop_wanted)

    def _await_upload(self, beat: Callable[[], None], stop_wanted: Callable[[], bool]) -> None:
        """It ends, well or not: the agent gives up in time. Whoever is to stop leaves it to the agent."""
        while self._rules.is_uploading and not stop_wanted():
            beat()
            time.sleep(_LOOK_S)

    def _carry_out(self, order: Order, held: Mapping[int, HeldLayer], commit: Commit | None) -> None:
        if order.is_there:
            assert self._told is not None
            self._send(replace(self._told, for_checkpoint=True))
            return
        begun_s = time.monotonic()
        self._snapshotter.forget(self._layers - frozenset(held))
        self._order, self._told, self._layers = order, None, frozenset(held)
        self._loss = commit.loss if commit is not None else None
        self._send(SnapshotBegun(kept=order.kept))
        states = {
            n: LayerState(name=layer.name, tensors=layer.tensors(), scalars=layer.scalars())
            for n, layer in held.items()
        }
        keep = (order.kept.step, order.kept.generation) if order.kept is not None else None
        self._snapshotter.begin(order.version.step, order.version.generation, states, keep)
        self._spent_s = time.monotonic() - begun_s

    def _tell(self, taken: Taken) -> None:
        assert self._order is not None
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
            for_checkpoint=self._order.for_checkpoint,
            loss=self._loss,
            copy_s=taken.copy_s,
        )
        self._rules.done()
        self._send(self._told)

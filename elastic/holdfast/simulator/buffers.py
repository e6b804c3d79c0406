"""A fake worker's snapshots: the real rules, and two buffers for each layer that know what is whole in them.

Mirror of holdfast.worker.snapshots, without time: a copy is whole when the worker waits for it, or comes to nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from holdfast.control.snapshotting import Order, SnapshotRules, Tally
from holdfast.model.messages import FromWorker, SnapshotBegun, SnapshotBlob, Snapshotted
from holdfast.model.records import Commit, Version
from holdfast.simulator.weights import State
from holdfast_checkpoint.sparing import choose

Pair = tuple[int, int]


def pair(version: Version) -> Pair:
    """As holdfast_checkpoint names it."""
    return version.step, version.generation


@dataclass(frozen=True, slots=True, kw_only=True)
class Storing:
    """What a job keeps besides live state. `snapshots`, `checkpoints`: every so many steps; 0: none; None: whenever the
    last one has its copies, and nobody waits for them."""

    snapshots: int | None = 0
    checkpoints: int = 0

    @property
    def has_snapshots(self) -> bool:
        return self.snapshots != 0

    @property
    def is_on(self) -> bool:
        return self.has_snapshots or self.checkpoints > 0


@dataclass(slots=True, eq=False)
class Buffer:
    """Shared memory: whoever has it open sees whether it is whole, also when its worker is dead."""

    version: Pair | None = None
    state: State = 0
    checksum: State = 0

    @property
    def is_sound(self) -> bool:
        return self.state == self.checksum

    def fill(self, version: Pair, state: State) -> None:
        self.version, self.state, self.checksum = version, state, state

    def flip(self) -> None:
        """A byte."""
        self.state = ~self.checksum


class Buffers:
    """One a worker."""

    def __init__(self, storing: Storing, send: Callable[[FromWorker], None], fails: Callable[[], bool]) -> None:
        """`fails`: whether a copy that was begun comes to nothing."""
        self.rules = SnapshotRules(every=storing.snapshots, overhead=1.0, checkpoint_every=storing.checkpoints)
        self._send, self._fails = send, fails
        self._pairs: dict[int, tuple[Buffer, Buffer]] = {}
        self._begun: Order | None = None
        self._written: list[tuple[Buffer, State]] = []
        self._loss: float | None = None
        self._told: Snapshotted | None = None

    def find(self, layer: int, version: Version) -> Buffer | None:
        """The buffer that has it whole."""
        return next((buffer for buffer in self._pairs.get(layer, ()) if buffer.version == pair(version)), None)

    def whole(self) -> Iterator[tuple[Version, int]]:
        """Versions, and layers of which they are here and sound."""
        for layer, buffers in self._pairs.items():
            for buffer in buffers:
                if buffer.version is not None and buffer.is_sound:
                    yield Version(*buffer.version), layer

    def begin(self, version: Version, layers: Mapping[int, State], commit: Commit | None, tally: Tally) -> None:
        if (order := self.rules.begin(version, layers.keys(), tally)) is not None:
            self._carry_out(order, layers, commit)

    def begin_urgently(self, version: Version, layers: Mapping[int, State]) -> None:
        self._carry_out(self.rules.begin_urgently(version, layers.keys()), layers, None)
        self.settle()

    def settle(self) -> bool:
        """Until the copy that was begun is whole; whether there was one."""
        order, self._begun = self._begun, None
        if order is None:
            return False
        if self._fails():
            self.rules.came_to_nothing()
            return False
        for buffer, state in self._written:
            buffer.fill(pair(order.version), state)
        blobs = tuple(SnapshotBlob(layer=n, fd=0, size=1, chunk_bytes=1, chunks=("",)) for n in sorted(self._pairs))
        self._told = Snapshotted(
            version=order.version, blobs=blobs, for_checkpoint=order.for_checkpoint, loss=self._loss
        )
        self.rules.done()
        self._send(self._told)
        return True

    def _carry_out(self, order: Order, layers: Mapping[int, State], commit: Commit | None) -> None:
        if order.is_there:
            assert self._told is not None
            self._send(replace(self._told, for_checkpoint=True))
            return
        self._send(SnapshotBegun(kept=order.kept))
        # What others have open stays as it is.
        self._pairs = {layer: buffers for layer, buffers in self._pairs.items() if layer in layers}
        self._begun, self._told = order, None
        self._loss = commit.loss if commit is not None else None
        self._written = []
        for layer, state in layers.items():
            buffers = self._pairs.setdefault(layer, (Buffer(), Buffer()))
            kept = pair(order.kept) if order.kept is not None else None
            at = choose([buffer.version for buffer in buffers], pair(order.version), kept)
            if at is not None:
                buffers[at].version = None
                self._written.append((buffers[at], state))

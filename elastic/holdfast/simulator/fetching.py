"""Brings what a fake agent's workers lack at a start: mirror of holdfast.agent.fetching.

One layer an action, from its nearest sound copy. A layer that several of its slots want is fetched once.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from holdfast.model.ids import NodeId
from holdfast.model.messages import Restored, ToWorker
from holdfast.model.records import Restore, StartRecord
from holdfast.simulator.buffers import Pair, pair
from holdfast.simulator.ram import Copy, Ram
from holdfast.simulator.storage import Storage, StorageAwayError
from holdfast_checkpoint.sparing import FETCHED


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Who hears of what is fetched, and of what is not."""

    tell_worker: Callable[[int, ToWorker], None]
    changed: Callable[[], None]  # what is in RAM, or known of checkpoints
    found_unsound: Callable[[str], None]  # a checkpoint
    restore_failed: Callable[[int, str], None]  # (generation, why)
    restore_waits: Callable[[int, str], None]  # (generation, for what; empty: not any more)


@dataclass(slots=True, kw_only=True)
class Fetching:
    """Of one start on one node. `pull(node, layer, version)` brings a peer's copy; None: there is no sound one."""

    node: NodeId
    start: StartRecord
    ram: Ram
    storage: Storage
    pull: Callable[[NodeId, int, Pair], Copy | None]
    home: Home
    _wanted: deque[tuple[Restore, ...]] = field(init=False)  # of one layer each
    _lost: list[int] = field(default_factory=list)
    _waits: bool = False

    def __post_init__(self) -> None:
        mine: dict[int, list[Restore]] = {}
        for restore in self.start.restores:
            if restore.target.node == self.node:
                mine.setdefault(restore.layer, []).append(restore)
        self._wanted = deque(map(tuple, mine.values()))

    def can_fetch(self) -> bool:
        """A storage that is away is waited for, and that is said once."""
        return bool(self._wanted) and not (self._waits and self.storage.away)

    def fetch(self) -> str:
        restores = self._wanted.popleft()
        layer = restores[0].layer
        try:
            copy, source = self._fetch(restores[0])
        except StorageAwayError:
            self._wanted.appendleft(restores)
            self._say_waits("the storage is away")
            return f"waits for the storage with layer {layer}"
        if self._waits:
            self._say_waits("")
        if copy is None:
            self._lost.append(layer)
        else:
            self._hand_over(restores, copy, source)
        self.home.changed()
        if self._lost and not self._wanted:
            self.home.restore_failed(self.start.generation, f"layers {self._lost} are lost")
        return f"fetches layer {layer} at {pair(self.start.version)}: {source or 'nowhere'}"

    def _fetch(self, restore: Restore) -> tuple[Copy | None, str]:
        """And where it was. Raises: StorageAwayError."""
        layer, version = restore.layer, pair(self.start.version)
        if (copy := self.ram.find_sound(layer, version)) is not None:
            return copy, str(self.node)
        for node in restore.sources:
            if node != self.node and (copy := self.pull(node, layer, version)) is not None:
                return copy, str(node)
        if self.start.checkpoint:
            state = self.storage.read(self.start.checkpoint, layer)
            if state is not None:
                return self.ram.receive(layer, version, state, FETCHED), "checkpoint"
            self.home.found_unsound(self.start.checkpoint)
        return None, ""

    def _hand_over(self, restores: tuple[Restore, ...], copy: Copy, source: str) -> None:
        generation, path = self.start.generation, str(copy.buffer.state)
        for restore in restores:
            message = Restored(generation=generation, layer=copy.layer, path=path, source=source)
            self.home.tell_worker(restore.target.index, message)

    def _say_waits(self, why: str) -> None:
        self._waits = bool(why)
        self.home.restore_waits(self.start.generation, why)

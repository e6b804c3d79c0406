"""Which nodes are there, which of their workers are members, and what of the others became.

There may be thousands, and an event from each: what is asked after every event is kept in step here, or remembered.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from holdfast.model.ids import NodeId, WorkerId
from holdfast.model.records import NodeRecord, WorkerRef

# Two answers that fail to come, asked for so far apart, are silence; a single one may have got lost.
_SILENT_S = 0.9


@dataclass(slots=True)
class Absence:
    """A member whose key is gone, though nobody said that it leaves: it may live."""

    since_s: float
    asked_s: float | None = None  # when it was last probed
    silent_s: float | None = None  # since when its answers fail to come; None once one came


@dataclass(slots=True)
class Roster:
    """`nodes`: those with a key in the store, and those of `absent`, which count as there until they are known not to
    be. Only the methods change it."""

    nodes: dict[NodeId, NodeRecord] = field(default_factory=dict)
    absent: dict[NodeId, Absence] = field(default_factory=dict)
    died: dict[WorkerId, str] = field(default_factory=dict)  # workers that died of themselves on a live node: of what
    dead: set[WorkerId] = field(default_factory=set)  # workers whose agent is dead
    members: frozenset[WorkerId] = frozenset()

    _alive: set[WorkerId] = field(default_factory=set)
    _strangers: dict[WorkerId, WorkerRef] = field(default_factory=dict)
    _refs: tuple[WorkerRef, ...] | None = None

    def enter(self, members: Collection[WorkerId], voters: Collection[WorkerId]) -> None:
        """A new generation. Nobody asks any more after workers that are neither in it nor in a record."""
        self.members = frozenset(members)
        self._strangers = {ref.worker: ref for ref in self.refs if ref.worker not in self.members}
        told = {worker for record in self.nodes.values() for worker in record.died}
        of_interest = self.members | self._alive | told | set(voters)
        self.died = {worker: of for worker, of in self.died.items() if worker in of_interest}
        self.dead &= of_interest

    def register(self, record: NodeRecord) -> int:
        """A node says who it is. How many workers are new."""
        known = {ref.worker for ref in self.nodes[record.node].workers} if record.node in self.nodes else set()
        self.absent.pop(record.node, None)
        self._put(record)
        self.died.update(zip(record.died, record.died_of or ("",) * len(record.died), strict=False))
        return sum(ref.worker not in known for ref in record.workers)

    def miss(self, record: NodeRecord, now_s: float) -> None:
        """It has no key, and may live."""
        self._put(record)
        self.absent[record.node] = Absence(now_s)

    def gone(self, node: NodeId) -> None:
        """It counts as there no more."""
        self._remove(node)
        self.absent.pop(node, None)

    def refused(self, node: NodeId) -> None:
        """It is dead, and its workers died with it."""
        self.dead.update(ref.worker for ref in self.nodes[node].workers)
        self.gone(node)

    def strike_out(self, node: NodeId, dead: Collection[WorkerId]) -> bool:
        """These workers of that node died. Whether any counted as there."""
        record = self.nodes[node]
        struck = [ref.worker for ref in record.workers if ref.worker in dead]
        if struck:
            self.died.update(dict.fromkeys(struck, ""))
            self._put(replace(record, workers=tuple(ref for ref in record.workers if ref.worker not in dead)))
        return bool(struck)

    def is_silent(self, node: NodeId, now_s: float) -> bool:
        """An answer of that node failed to come: whether that says anything."""
        absence = self.absent.get(node)
        if absence is None:
            return False
        absence.silent_s = now_s if absence.silent_s is None else absence.silent_s
        return now_s >= absence.silent_s + _SILENT_S

    def answered(self, node: NodeId) -> None:
        if node in self.absent:
            self.absent[node].silent_s = None

    @property
    def refs(self) -> tuple[WorkerRef, ...]:
        """Warm workers of all nodes, by slot."""
        if self._refs is None:
            of_nodes = (self.nodes[node].workers for node in sorted(self.nodes))
            self._refs = tuple(ref for workers in of_nodes for ref in sorted(workers, key=lambda ref: ref.slot.index))
        return self._refs

    @property
    def bereft(self) -> bool:
        """Whether there is a node whose workers have all died, and come back as soon as they are warm."""
        return any(not record.workers for record in self.nodes.values())

    @property
    def strangers(self) -> tuple[WorkerRef, ...]:
        """Of these, those that are no members, in no order."""
        return tuple(self._strangers.values())

    @property
    def missing(self) -> frozenset[WorkerId]:
        """Members that are not there."""
        return self.members - self._alive

    @property
    def alive(self) -> frozenset[WorkerId]:
        """All warm workers."""
        return frozenset(self._alive)

    def is_alive(self, worker: WorkerId) -> bool:
        return worker in self._alive

    def _put(self, record: NodeRecord) -> None:
        self._remove(record.node)
        self.nodes[record.node] = record
        for ref in record.workers:
            self._alive.add(ref.worker)
            if ref.worker not in self.members:
                self._strangers[ref.worker] = ref

    def _remove(self, node: NodeId) -> None:
        self._refs = None
        before = self.nodes.pop(node, None)
        for ref in before.workers if before is not None else ():
            self._alive.discard(ref.worker)
            self._strangers.pop(ref.worker, None)

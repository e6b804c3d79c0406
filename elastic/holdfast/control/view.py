"""What the coordinator has been told, and questions about it. Only `absorb` changes it; nothing is decided here."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from holdfast.model.events import (
    AckReceived,
    ContactLost,
    DrainChanged,
    Event,
    NodeChanged,
    ProbeAnswered,
    ProgressMade,
    StopRequested,
    TimePassed,
    UserCodeFailed,
)
from holdfast.model.ids import NodeId
from holdfast.model.records import (
    AckPhase,
    Action,
    Commit,
    DrainRecord,
    FailureRecord,
    GenerationRecord,
    NodeAck,
    NodeRecord,
    SlotInventory,
    StartRecord,
    WorkerRef,
)


@dataclass(slots=True)
class Drain:
    record: DrainRecord
    seen_s: float


@dataclass(slots=True)
class View:
    """Facts of the job and of its current generation. Sets and dicts are sorted wherever they are walked."""

    nodes: dict[NodeId, NodeRecord] = field(default_factory=dict)
    drains: dict[NodeId, Drain] = field(default_factory=dict)
    died: set[str] = field(default_factory=set)  # workers that died of themselves on a node that lives
    committed_step: int = 0
    told: dict[int, Commit] = field(default_factory=dict)  # by generation, its newest commit that anyone told of
    stop_reason: str | None = None
    failure: FailureRecord | None = None
    membership_changed_s: float = 0.0

    generation: GenerationRecord | None = None
    start: StartRecord | None = None
    entered_s: float = 0.0  # when the generation, then its start, was written
    stopped: dict[NodeId, NodeAck] = field(default_factory=dict)
    running: set[NodeId] = field(default_factory=set)
    finished: set[NodeId] = field(default_factory=set)
    progressed: bool = False  # a step was committed in this generation
    suspected_s: float | None = None
    answered: set[NodeId] = field(default_factory=set)

    def enter(self, generation: GenerationRecord, now_s: float) -> None:
        """A new generation: nothing is known of it yet."""
        self.generation, self.start, self.entered_s = generation, None, now_s
        self.stopped, self.running, self.finished = {}, set(), set()
        self.progressed, self.suspected_s, self.answered = False, None, set()

    def begin(self, start: StartRecord, now_s: float) -> None:
        self.start, self.entered_s = start, now_s
        self.committed_step = max(self.committed_step, start.version.step)  # who received layers tells no commits

    def absorb(self, event: Event, now_s: float) -> None:
        match event:
            case NodeChanged(node, record):
                self._node_changed(node, record, now_s)
            case DrainChanged(node, None):
                self.drains.pop(node, None)
            case DrainChanged(node, DrainRecord() as record):
                seen_s = self.drains[node].seen_s if node in self.drains else now_s
                self.drains[node] = Drain(record, seen_s)
            case AckReceived(ack):
                self._acknowledged(ack)
            case ProgressMade(record):
                self._committed(record.generation, record.commits[-1])
                if self.generation is not None and record.generation == self.generation.number:
                    self.progressed = True
            case ContactLost(suspect):
                if self.generation is not None and suspect.generation == self.generation.number:
                    self.suspected_s = now_s if self.suspected_s is None else self.suspected_s
            case ProbeAnswered(node, incarnation, workers):
                self._probed(node, incarnation, workers, now_s)
            case StopRequested(reason):
                self.stop_reason = self.stop_reason or reason
            case UserCodeFailed(record):
                self.failure = self.failure or record
            case TimePassed():
                pass

    def _node_changed(self, node: NodeId, record: NodeRecord | None, now_s: float) -> None:
        self.membership_changed_s = now_s
        if record is None:
            self.nodes.pop(node, None)
        else:
            self.nodes[node] = record
            self.died.update(record.died)

    def _committed(self, generation: int, commit: Commit) -> None:
        self.committed_step = max(self.committed_step, commit.step)
        if generation not in self.told or self.told[generation].step < commit.step:
            self.told[generation] = commit

    def _acknowledged(self, ack: NodeAck) -> None:
        generation, record = self.generation, self.nodes.get(ack.node)
        if generation is None or ack.generation != generation.number:
            return
        if record is None or record.incarnation != ack.incarnation:
            return
        for inventory in ack.inventory:
            version, last = inventory.version, inventory.commits[-1] if inventory.commits else None
            if version is not None and last is not None and last.step == version.step:
                self._committed(version.generation, last)
        # Each phase holds the ones before it: a store shows only the last of quick writes to one key.
        self.stopped.setdefault(ack.node, ack)
        if ack.phase in (AckPhase.RUNNING, AckPhase.FINISHED):
            self.running.add(ack.node)
        if ack.phase is AckPhase.FINISHED:
            self.finished.add(ack.node)

    def _probed(self, node: NodeId, incarnation: str, workers: Iterable[str] | None, now_s: float) -> None:
        record = self.nodes.get(node)
        if record is None or record.incarnation != incarnation or workers is None:
            return
        self.answered.add(node)
        alive = set(workers)
        dead = [ref for ref in record.workers if ref.worker not in alive]
        if dead:
            kept = tuple(ref for ref in record.workers if ref.worker in alive)
            self.died.update(ref.worker for ref in dead)
            self.nodes[node] = NodeRecord(
                node=node,
                incarnation=incarnation,
                host=record.host,
                port=record.port,
                domain=record.domain,
                agent_pid=record.agent_pid,
                workers=kept,
                died=record.died,
            )
            self.membership_changed_s = now_s

    @property
    def live(self) -> tuple[WorkerRef, ...]:
        """Warm workers of all nodes that have not been released, by slot."""
        return tuple(
            sorted(
                (ref for node, record in self.nodes.items() if not self.is_released(node) for ref in record.workers),
                key=lambda ref: ref.slot,
            )
        )

    def is_released(self, node: NodeId) -> bool:
        return node in self.drains and self.drains[node].record.released

    @property
    def draining(self) -> tuple[NodeId, ...]:
        """Live nodes that are to leave and have not been released."""
        return tuple(sorted(n for n, drain in self.drains.items() if n in self.nodes and not drain.record.released))

    @property
    def members(self) -> tuple[WorkerRef, ...]:
        return self.generation.members if self.generation is not None else ()

    @property
    def member_nodes(self) -> frozenset[NodeId]:
        return frozenset(ref.slot.node for ref in self.members)

    @property
    def needed(self) -> tuple[WorkerRef, ...]:
        """Members whose loss ends the generation: all until it runs, then those in the plan."""
        start = self.start
        if start is None or start.plan is None or not self.is_running:
            return tuple(ref for ref in self.members if not self.is_released(ref.slot.node))
        slots = frozenset(start.plan.slots)
        return tuple(ref for ref in self.members if ref.slot in slots)

    @property
    def lost(self) -> tuple[WorkerRef, ...]:
        alive = {ref.worker for record in self.nodes.values() for ref in record.workers}
        return tuple(ref for ref in self.needed if ref.worker not in alive)

    @property
    def inventories(self) -> tuple[SlotInventory, ...]:
        alive = {ref.worker for ref in self.members}
        return tuple(
            inventory
            for node in sorted(self.stopped)
            for inventory in self.stopped[node].inventory
            if inventory.worker in alive
        )

    @property
    def is_stopped(self) -> bool:
        """All members have said what they hold."""
        return self.member_nodes <= self.stopped.keys()

    @property
    def is_running(self) -> bool:
        """All members have what the start gave them; but for those outside the plan that are gone, such as one that
        was released, whose word a new leader does not find."""
        if self.start is None:
            return False
        plan = self.start.plan
        gone = {n for n in self.member_nodes - self.nodes.keys() if plan is None or n not in plan.nodes}
        return self.member_nodes - gone <= self.running

    @property
    def is_holding(self) -> bool:
        return self.start is not None and self.start.action is Action.HOLD

    @property
    def is_finished(self) -> bool:
        start = self.start
        return start is not None and start.plan is not None and start.plan.nodes <= self.finished

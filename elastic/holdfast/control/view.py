"""What the coordinator has been told, and questions about it. Nothing is decided here.

What is asked after every event is kept in step or remembered: there may be thousands of nodes.
"""

from dataclasses import dataclass, field

from holdfast.control.catalogue import Catalogue
from holdfast.control.drain import Drain
from holdfast.control.entrusted import Entrusted
from holdfast.control.joins import Joins
from holdfast.control.reach import Apart, apart_of
from holdfast.control.recovery import Stored
from holdfast.control.roster import Roster
from holdfast.control.unheard import Unheard
from holdfast.control.waits import Waits
from holdfast.model.events import (
    AckReceived,
    CheckpointFailed,
    CheckpointsChanged,
    ContactLost,
    DrainChanged,
    Event,
    NodeChanged,
    NodeRefused,
    PardonChanged,
    ProbeAnswered,
    ProgressMade,
    ReachChanged,
    StopRequested,
    TimePassed,
    UploadReported,
    UserCodeFailed,
)
from holdfast.model.ids import NodeId, WorkerId
from holdfast.model.records import (
    AckPhase,
    Action,
    Commit,
    DrainRecord,
    FailureRecord,
    GenerationRecord,
    NodeAck,
    NodeRecord,
    ProgressRecord,
    ReachRecord,
    SlotInventory,
    StartRecord,
    WorkerRef,
)

# Of generations that committed steps, the newest commits of the last ones are remembered: what a worker voted for and
# never heard the end of was in one of them.
_TOLD_MAX = 16


@dataclass(slots=True)
class View:
    """Facts of the job and of its current generation. Sets and dicts are sorted wherever they are walked."""

    has_snapshots: bool = False  # agents have copies in RAM, of whatever layers
    roster: Roster = field(default_factory=Roster)
    unheard: Unheard = field(default_factory=Unheard)
    entrusted: Entrusted = field(default_factory=Entrusted)
    catalogue: Catalogue = field(default_factory=Catalogue)
    drains: dict[NodeId, Drain] = field(default_factory=dict)
    reach: dict[NodeId, ReachRecord] = field(default_factory=dict)
    reach_changed_s: float = 0.0
    reach_began_s: float | None = None  # when it changed first in this generation
    pardons: set[NodeId] = field(default_factory=set)
    joins: Joins = field(default_factory=Joins)
    committed_s: float | None = None  # when a new step of this generation was last told of
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
    waits: Waits = field(default_factory=Waits)
    progressed: bool = False  # a step was committed in this generation
    suspected_s: float | None = None
    answered: set[NodeId] = field(default_factory=set)
    began_s: float = 0.0  # when the generation was written
    runs_s: float | None = None  # since when it runs
    member_nodes: frozenset[NodeId] = frozenset()

    _unstopped: set[NodeId] = field(default_factory=set)
    _not_running: set[NodeId] = field(default_factory=set)
    _lost: tuple[WorkerRef, ...] | None = None  # None: to be found out

    @property
    def nodes(self) -> dict[NodeId, NodeRecord]:
        """Those that count as there."""
        return self.roster.nodes

    def enter(self, generation: GenerationRecord, now_s: float) -> None:
        """A new generation: nothing is known of it yet."""
        self.generation, self.start, self.entered_s = generation, None, now_s
        self.stopped, self.running, self.finished, self.waits = {}, set(), set(), Waits()
        self.progressed, self.committed_s, self.suspected_s, self.answered = False, None, None, set()
        self.joins, self.began_s, self.runs_s, self.reach_began_s = Joins(), now_s, None, None
        self.member_nodes = frozenset(ref.slot.node for ref in generation.members)
        self._unstopped, self._not_running, self._lost = set(self.member_nodes), set(self.member_nodes), None
        self.entrusted.keep(self.roster.alive)
        self.roster.enter([ref.worker for ref in generation.members], generation.voters)
        for node in generation.unheard:  # as another leader left it
            self.unheard.add(node, None, now_s)
        for number in sorted(self.told)[:-_TOLD_MAX]:
            del self.told[number]

    def begin(self, start: StartRecord, now_s: float) -> None:
        self.start, self.entered_s = start, now_s
        self.suspected_s = None  # what broke while it formed is over
        self.committed_step = max(self.committed_step, start.version.step)  # who received layers tells no commits
        self.entrusted.begin(start, self.members)
        self.unheard.started()
        self._lost = None

    def release(self, record: DrainRecord) -> None:
        """Of a node that drains."""
        self.drains[record.node].record = record
        self._lost = None

    def absorb(self, event: Event, now_s: float) -> None:
        match event:
            case TimePassed():
                pass
            case AckReceived(ack):
                self._acknowledged(ack, now_s)
            case NodeChanged(node, record):
                self._node_changed(node, record, now_s)
            case DrainChanged(node, drain):
                self._drain_changed(node, drain, now_s)
            case ProgressMade(record):
                self._progress_made(record, now_s)
            case ContactLost(suspect):
                settled = suspect.stopping and self.start is not None
                if self.generation is not None and suspect.generation == self.generation.number and not settled:
                    self.suspected_s = now_s if self.suspected_s is None else self.suspected_s
            case ProbeAnswered():
                self._probed(event, now_s)
            case NodeRefused(node, incarnation):
                self._refused(node, incarnation, now_s)
            case ReachChanged(node, reach):
                self._reach_changed(node, reach, now_s)
            case PardonChanged(node, given):
                (self.pardons.add if given else self.pardons.discard)(node)
            case UploadReported(record):
                self.catalogue.uploaded(record)
            case CheckpointsChanged(checkpoints):
                self.catalogue.changed(checkpoints)
            case CheckpointFailed(version):
                self.catalogue.failed(version)
            case StopRequested(reason):
                self.stop_reason = self.stop_reason or reason
            case UserCodeFailed(record):
                self._failed(record)

    def _failed(self, record: FailureRecord) -> None:
        """Once something was started, the failure of a worker that had no part in it is a matter of its node's."""
        last = self._last_started
        if last is None or record.generation == last or record.worker in self.roster.members:
            self.failure = self.failure or record

    @property
    def _last_started(self) -> int | None:
        if self.start is not None:
            return self.start.generation
        lineage = self.generation.lineage if self.generation is not None else ()
        return lineage[-1][0] if lineage else None

    def _progress_made(self, record: ProgressRecord, now_s: float) -> None:
        is_new = record.commits[-1].step > self.committed_step
        self._committed(record.generation, record.commits[-1])
        if self.generation is None or record.generation != self.generation.number:
            return
        self.committed_s = now_s if is_new else self.committed_s
        if not self.progressed:
            self.progressed = True
            self.unheard.progressed()

    def _drain_changed(self, node: NodeId, record: DrainRecord | None, now_s: float) -> None:
        if record is None:
            self.drains.pop(node, None)
        else:
            seen_s = self.drains[node].seen_s if node in self.drains else now_s
            self.drains[node] = Drain(record, seen_s)
        self._lost = None

    def _node_changed(self, node: NodeId, record: NodeRecord | None, now_s: float) -> None:
        self.membership_changed_s = now_s
        if record is None:
            self._key_gone(node, now_s)
            return
        self._lost = None
        self.unheard.heard(node)
        if count := self.roster.register(record):
            joins = self.joins
            first_s = joins.first_s if joins.count else now_s
            self.joins = Joins(joins.count + count, first_s, now_s)

    def _key_gone(self, node: NodeId, now_s: float) -> None:
        """Its lease ended. Who leaves as planned is gone; a member of whom nobody expects it may live."""
        if node not in self.nodes or node in self.roster.absent:
            return
        if node in self.drains and self.drains[node].explains(now_s):
            self.gone(node)
        elif node in self.member_nodes and node not in self.drains:
            self.roster.miss(self.nodes[node], now_s)
        else:
            self.fell_silent(node, now_s)

    def gone(self, node: NodeId) -> None:
        """It counts as there no more."""
        self.roster.gone(node)
        self.reach.pop(node, None)
        self._lost = None

    def fell_silent(self, node: NodeId, now_s: float) -> None:
        """As if it were gone; but it may live, and come back with what it holds."""
        held = None if self.has_snapshots else self.entrusted.held_by([r.worker for r in self.nodes[node].workers])
        self.unheard.add(node, held, now_s)
        self.gone(node)

    def miss(self, record: NodeRecord, now_s: float) -> None:
        """A new leader finds no key of a member: it may live."""
        self.roster.miss(record, now_s)
        self._lost = None

    def _refused(self, node: NodeId, incarnation: str, now_s: float) -> None:
        if self._is(node, incarnation):
            self.roster.refused(node)
            self.gone(node)
            self.membership_changed_s = now_s
        elif node not in self.nodes:  # it was given up already
            self.unheard.heard(node)

    def _is(self, node: NodeId, incarnation: str) -> bool:
        return node in self.nodes and self.nodes[node].incarnation == incarnation

    def _reach_changed(self, node: NodeId, record: ReachRecord | None, now_s: float) -> None:
        before = self.reach.get(node)
        if record is None:
            self.reach.pop(node, None)
        else:
            self.reach[node] = record
        if (before.unreachable if before else ()) != (record.unreachable if record else ()):
            self.reach_changed_s = now_s
            self.reach_began_s = now_s if self.reach_began_s is None else self.reach_began_s

    @property
    def apart(self) -> Apart:
        """Which of the nodes that are there cannot reach each other."""
        if not self.reach:
            return {}
        said = {n: record.unreachable for n, record in self.reach.items() if self._is(n, record.incarnation)}
        return apart_of(said, self.nodes.keys())

    def _committed(self, generation: int, commit: Commit) -> None:
        self.committed_step = max(self.committed_step, commit.step)
        if generation not in self.told or self.told[generation].step < commit.step:
            self.told[generation] = commit

    def _acknowledged(self, ack: NodeAck, now_s: float) -> None:
        generation = self.generation
        if generation is None or ack.generation != generation.number or not self._is(ack.node, ack.incarnation):
            return
        self.catalogue.unsound.update(ack.unsound)
        for inventory in ack.inventory:
            if self.start is None:
                self.entrusted.said(inventory)
            version, last = inventory.version, inventory.commits[-1] if inventory.commits else None
            if version is not None and last is not None and last.step == version.step:
                self._committed(version.generation, last)
        # Each phase holds the ones before it: a store shows only the last of quick writes to one key.
        self.stopped.setdefault(ack.node, ack)
        self._unstopped.discard(ack.node)
        self.waits.told(ack, now_s)
        if ack.phase in (AckPhase.RUNNING, AckPhase.FINISHED):
            self.running.add(ack.node)
            self._not_running.discard(ack.node)
        if ack.phase is AckPhase.FINISHED:
            self.finished.add(ack.node)
        if self.runs_s is None and self.is_running:
            self.runs_s = now_s
            self._lost = None  # from now on only those in the plan are needed

    def _probed(self, answer: ProbeAnswered, now_s: float) -> None:
        node, workers = answer.node, answer.workers
        if not self._is(node, answer.incarnation):
            return
        if workers is None:
            if self.roster.is_silent(node, now_s):
                self.fell_silent(node, now_s)
            return
        self.roster.answered(node)
        self.answered.add(node)
        if self.roster.strike_out(node, set(answer.asked).difference(workers)):
            self._lost = None
            self.membership_changed_s = now_s

    @property
    def live(self) -> tuple[WorkerRef, ...]:
        """Warm workers of all nodes that have not been released, by slot."""
        refs = self.roster.refs
        if any(drain.record.released for drain in self.drains.values()):
            return tuple(ref for ref in refs if not self.is_released(ref.slot.node))
        return refs

    @property
    def strangers(self) -> tuple[WorkerRef, ...]:
        """Of these, those that are no members, in no order."""
        return tuple(ref for ref in self.roster.strangers if not self.is_released(ref.slot.node))

    @property
    def cut_off(self) -> frozenset[NodeId]:
        """Live nodes that the generation had to leave out."""
        left_out = self.generation.unreachable if self.generation is not None else ()
        return frozenset(left_out).intersection(self.nodes)

    def is_released(self, node: NodeId) -> bool:
        return node in self.drains and self.drains[node].record.released

    @property
    def draining(self) -> tuple[NodeId, ...]:
        """Live nodes that are to leave and have not been released."""
        return tuple(sorted(n for n, drain in self.drains.items() if n in self.nodes and not drain.record.released))

    @property
    def voters(self) -> tuple[WorkerId, ...]:
        return self.generation.voters if self.generation is not None else ()

    @property
    def members(self) -> tuple[WorkerRef, ...]:
        return self.generation.members if self.generation is not None else ()

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
        if self._lost is None:
            missing = self.roster.missing
            self._lost = tuple(ref for ref in self.needed if ref.worker in missing) if missing else ()
        return self._lost

    @property
    def inventories(self) -> tuple[SlotInventory, ...]:
        return tuple(
            inventory
            for node in sorted(self.stopped)
            for inventory in self.stopped[node].inventory
            if inventory.worker in self.roster.members
        )

    @property
    def stored(self) -> Stored:
        """What there is besides live copies."""
        snapshots = {node: ack.snapshots for node, ack in self.stopped.items() if ack.snapshots and node in self.nodes}
        return Stored(snapshots=snapshots, checkpoints=self.catalogue.sound)

    @property
    def is_stopped(self) -> bool:
        """All members have said what they hold."""
        return not self._unstopped

    @property
    def silent(self) -> tuple[NodeId, ...]:
        """Members that have not."""
        return tuple(sorted(self._unstopped))

    @property
    def is_running(self) -> bool:
        """All members have what the start gave them; but for those outside the plan that are gone, such as one that
        was released, whose word a new leader does not find."""
        if self.start is None:
            return False
        plan = self.start.plan
        return all(n not in self.nodes and (plan is None or n not in plan.nodes) for n in self._not_running)

    @property
    def is_holding(self) -> bool:
        return self.start is not None and self.start.action is Action.HOLD

    @property
    def is_finished(self) -> bool:
        start = self.start
        return start is not None and start.plan is not None and start.plan.nodes <= self.finished

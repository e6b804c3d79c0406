"""The session of one node: what its agent does about generations, its workers and its own departure. Pure.

It follows the coordinator and reports; it never decides about the job. What it says its agent writes until that is
done, or superseded (`agent.reporting`). What hung on a lease that ended it says again under the next one.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from holdfast.control.member_commands import (
    KillWorker,
    Leave,
    MemberCommand,
    ProbeLeader,
    PutAck,
    PutFailure,
    PutNode,
    PutPace,
    PutProgress,
    PutSuspect,
    SpawnWorker,
    TakeSnapshot,
    TellWorker,
    TendTiers,
)
from holdfast.control.outlook import Outlook
from holdfast.control.slot_worker import SlotWorker, WorkerState, pace_of
from holdfast.model.ids import NodeId, SlotId, WorkerId
from holdfast.model.messages import (
    Broken,
    Committed,
    Exit,
    Failed,
    Finished,
    FromWorker,
    Paced,
    Parked,
    Ready,
    Running,
    SnapshotBegun,
    Snapshotted,
    Start,
    Stop,
)
from holdfast.model.records import (
    AckPhase,
    Action,
    Cause,
    DrainRecord,
    FailureRecord,
    GenerationRecord,
    NodeAck,
    NodeRecord,
    OutcomeRecord,
    ProgressRecord,
    SlotInventory,
    SnapshotInventory,
    StartRecord,
    StopMode,
    SuspectRecord,
    WorkerRef,
)

# A worker that ends this often before it was ever warm will not get warm at all.
_FAILED_STARTS_MAX = 3
# Of this node's workers that died, the last ones are told of.
_DIED_TOLD = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this agent is."""

    node: NodeId
    incarnation: str
    host: str
    port: int
    domain: str
    pid: int
    slots: int


@dataclass(slots=True)
class Member:
    """Mutable, driven by one agent: each method takes an event and yields what to do, in order."""

    identity: Identity
    abort_s: float
    workers: dict[int, SlotWorker] = field(default_factory=dict)
    generation: GenerationRecord | None = None
    start: StartRecord | None = None
    drain: tuple[DrainRecord, float] | None = None  # and when it must be over
    ended: bool = False
    registered: bool = False
    step: int = 0
    outlook: Outlook = field(init=False)
    snapshots: tuple[SnapshotInventory, ...] = ()  # in this agent's RAM, kept up to date by it
    unsound: frozenset[str] = frozenset()  # checkpoints that turned out corrupt here
    _died: list[tuple[WorkerId, str]] = field(default_factory=list)
    _abort_by_s: float | None = None
    _acked: tuple[int, AckPhase, str] | None = None
    _waits: str = ""
    _waited: int = 0  # newest generation of which too long a wait was reported

    def __post_init__(self) -> None:
        self.outlook = Outlook(self.identity.node)

    def begin(self) -> Iterator[MemberCommand]:
        for index in range(self.identity.slots):
            self.workers[index] = SlotWorker()
            yield SpawnWorker(index)

    @property
    def node_state(self) -> str:
        """For people: starting, ready or draining."""
        if not self.registered:
            return "starting"
        return "draining" if self.drain is not None else "ready"

    @property
    def wake_at_s(self) -> float | None:
        times = [self._abort_by_s, self.drain[1] if self.drain is not None else None, self.outlook.wake_at_s]
        return min((t for t in times if t is not None), default=None)

    @property
    def live_workers(self) -> tuple[WorkerRef, ...]:
        return tuple(w.ref for _, w in sorted(self.workers.items()) if w.ref is not None)

    def rejoined(self, incarnation: str) -> Iterator[MemberCommand]:
        """The lease ran out and a new one was taken. Either nobody noticed, and all goes on, once what was said under
        the old incarnation is said again; or a generation without this node has begun, and will be seen."""
        self.identity = Identity(
            **{name: getattr(self.identity, name) for name in self.identity.__dataclass_fields__}
            | {"incarnation": incarnation}
        )
        if self.registered:
            yield PutNode(self._record())
        if self.outlook.unreachable:
            yield from self.outlook.say(incarnation)
        self._acked = None
        yield from self._acknowledge()

    def orphaned(self, detail: str) -> Iterator[MemberCommand]:
        """The store was out of reach for too long: who is there may have given this node up, and begun without it
        (`control.fencing`). What its workers do is over; they keep what they hold. Should nobody have begun anything,
        the coordinator is told, and forms the same members again."""
        if self.generation is None:
            return
        told = [index for index, worker in sorted(self.workers.items()) if worker.told_start]
        # Who was to stop for a generation that has no start yet parks for that one, and is heard there.
        number = self.generation.number + (self.start is not None)
        for index in told:
            self.workers[index].at_work = False
            yield TellWorker(index, Stop(generation=number, abort=True))
        if told:
            yield PutSuspect(SuspectRecord(generation=self.generation.number, node=self.identity.node, detail=detail))

    def contact_lost(self) -> Iterator[MemberCommand]:
        """Something between this node and others broke, or may have: find out whom it reaches."""
        if not self.ended and self.identity.node in self._member_nodes():
            self.outlook.lost(self._member_nodes())
        yield from ()

    def peers_probed(self, unreachable: Collection[NodeId], now_s: float) -> Iterator[MemberCommand]:
        yield from self.outlook.probed(unreachable, self.identity.incarnation, now_s)

    def _member_nodes(self) -> frozenset[NodeId]:
        members = self.generation.members if self.generation is not None else ()
        return frozenset(ref.slot.node for ref in members)

    def generation_seen(self, record: GenerationRecord, now_s: float) -> Iterator[MemberCommand]:
        if self.generation is not None and record.number <= self.generation.number:
            return
        self.generation, self.start, self._acked, self._waits = record, None, None, ""
        abort = record.stop is StopMode.ABORT
        members = self._members()
        prompt = any(abort or not self.workers[index].at_work for index in members)
        self._abort_by_s = now_s + self.abort_s if prompt else None
        if record.cause is Cause.COMMUNICATION:
            yield from self.contact_lost()
        else:
            self.outlook.superseded()
        for index, worker in sorted(self.workers.items()):
            if index in members:
                yield TellWorker(index, Stop(generation=record.number, abort=abort))
            elif worker.told_start:
                # Taken for lost: what it does is over, and nobody is left to do it with.
                worker.told_start, worker.at_work = 0, False
                yield TellWorker(index, Stop(generation=record.number, abort=True))

    def start_seen(self, record: StartRecord) -> Iterator[MemberCommand]:
        if self.generation is None or record.generation != self.generation.number or self.start is not None:
            return
        self.start = record
        for index in self._members():
            slot = SlotId(self.identity.node, index)
            self.workers[index].told_start = record.generation
            self.workers[index].at_work = record.plan is not None and slot in record.plan.slots
            yield TellWorker(index, Start(generation=self.generation, start=record))
        yield TendTiers(self.generation, record)

    def stores(self, snapshots: tuple[SnapshotInventory, ...], unsound: frozenset[str]) -> None:
        """What its agent has in RAM, and which checkpoints turned out corrupt: part of the next inventory."""
        self.snapshots, self.unsound = snapshots, unsound

    def restore_failed(self, number: int, detail: str) -> Iterator[MemberCommand]:
        """No copy of what a start counted on is to be had: the generation is formed again, from what is left."""
        yield from self._suspect(number, detail)

    def restore_waits(self, number: int, why: str) -> Iterator[MemberCommand]:
        """The storage that a start restores from does not answer; where `why` is empty it does again."""
        if self.generation is not None and number == self.generation.number:
            self._waits = why
            yield from self._acknowledge()

    def drain_seen(self, record: DrainRecord | None, now_s: float) -> Iterator[MemberCommand]:
        if record is None:
            self.drain = None
            return
        deadline_s = now_s + record.grace_s
        self.drain = (record, min(deadline_s, self.drain[1]) if self.drain is not None else deadline_s)
        if record.released:
            yield from self.leave(f"drained: {record.reason}")

    def outcome_seen(self, record: OutcomeRecord) -> Iterator[MemberCommand]:
        yield from self.leave(f"the job is {record.result}")

    def time_passed(self, now_s: float) -> Iterator[MemberCommand]:
        yield from self.outlook.time_passed(now_s)
        if self._abort_by_s is not None and now_s >= self._abort_by_s:
            self._abort_by_s = None
            abort = self.generation is not None and self.generation.stop is StopMode.ABORT
            for index in self._members():
                if self._inventory(index) is None and (abort or not self.workers[index].at_work):
                    yield KillWorker(index, f"did not stop within {self.abort_s} s")
        if self.drain is not None and now_s >= self.drain[1]:
            yield from self.leave(f"the deadline of a drain is over: {self.drain[0].reason}")

    def worker_ended(self, index: int, status: int, why: str = "") -> Iterator[MemberCommand]:
        """Its process is gone. It comes back as a new worker, which joins when warm. `why`: for people."""
        worker = self.workers[index]
        if self.ended or worker.given_up:
            return
        if worker.ref is not None:
            self._died = [*self._died, (worker.ref.worker, why or f"status {status}")][-_DIED_TOLD:]
            failed_starts = 0
        else:
            failed_starts = worker.failed_starts + 1
        self.workers[index] = SlotWorker(failed_starts=failed_starts)
        if self.registered:
            yield PutNode(self._record())
        if failed_starts >= _FAILED_STARTS_MAX:
            last = why or f"status {status}"
            text = f"the worker process ended {failed_starts} times before it was warm (last: {last})"
            yield from self._failed(index, 0, "start-up", text)
        else:
            yield SpawnWorker(index)

    def worker_said(self, index: int, message: FromWorker) -> Iterator[MemberCommand]:
        worker = self.workers[index]
        match message:
            case Ready():
                worker.state = WorkerState.WARM
                worker.ref = WorkerRef(
                    slot=message.slot, worker=message.worker, address=message.address, pid=message.pid
                )
                if self.registered or all(w.state is WorkerState.WARM for w in self.workers.values()):
                    self.registered = True
                    yield PutNode(self._record())
            case Parked():
                worker.inventory = (message.generation, message.inventory)
                yield from self._acknowledge()
            case Running():
                worker.running = (message.generation, message.start)
                yield from self._acknowledge()
            case Finished():
                worker.finished = message.generation
                yield from self._acknowledge()
            case Committed():
                self.step = max(self.step, message.commit.step)
                if message.rank == 0:
                    yield PutProgress(ProgressRecord(generation=message.generation, commits=(message.commit,)))
            case Paced():
                worker.pace = message
                yield PutPace(pace_of(self.identity.node, message.generation, self.workers))
            case SnapshotBegun() | Snapshotted():
                yield TakeSnapshot(index, message)
            case Broken():
                yield from self._suspect(message.generation, message.detail)
            case Failed():
                yield from self._failed(index, message.step, message.where, message.traceback)

    def worker_waits(self, index: int, detail: str) -> Iterator[MemberCommand]:
        """It has waited for its peers for too long. One of them hangs, and an abort shows who: the one that does not
        answer."""
        number = self.generation.number if self.generation is not None else 0
        at_work = index in self._members() and (self._inventory(index) is None or self.start is not None)
        if at_work and number > self._waited:
            self._waited = number
            yield from self._suspect(number, detail)

    def _suspect(self, number: int, detail: str) -> Iterator[MemberCommand]:
        """Of the present generation; or of the one before, which is still to stop at a boundary that may never come."""
        now = self.generation
        if now is None:
            return
        stopping = number < now.number and self.start is None and now.stop is StopMode.BOUNDARY
        if number == now.number or stopping:
            node = self.identity.node
            yield PutSuspect(SuspectRecord(generation=now.number, node=node, detail=detail, stopping=stopping))
            yield ProbeLeader()
            yield from self.contact_lost()

    def _members(self) -> list[int]:
        """Slots whose present worker belongs to the current generation."""
        if self.generation is None:
            return []
        chosen = {ref.worker for ref in self.generation.members}
        return [i for i, w in sorted(self.workers.items()) if w.ref is not None and w.ref.worker in chosen]

    def _inventory(self, index: int) -> SlotInventory | None:
        stored = self.workers[index].inventory
        current = self.generation.number if self.generation is not None else 0
        return stored[1] if stored is not None and stored[0] == current else None

    def _acknowledge(self) -> Iterator[MemberCommand]:
        """Say how far all of this node's members are, if that is further than what was said."""
        members = self._members()
        if self.generation is None or not members:
            return
        number = self.generation.number
        inventory = [self._inventory(index) for index in members]
        if any(entry is None for entry in inventory):
            return
        self._abort_by_s = None
        starts = [w.running[1] for w in (self.workers[i] for i in members) if w.running and w.running[0] == number]
        phase = AckPhase.STOPPED
        if len(starts) == len(members):
            phase = AckPhase.FINISHED if self._all_finished(members, number) else AckPhase.RUNNING
        if self._acked == (number, phase, self._waits):
            return
        self._acked = (number, phase, self._waits)
        yield PutAck(
            NodeAck(
                generation=number,
                node=self.identity.node,
                incarnation=self.identity.incarnation,
                phase=phase,
                inventory=tuple(entry for entry in inventory if entry is not None),
                snapshots=self.snapshots,
                starts=tuple(starts),
                unsound=tuple(sorted(self.unsound)),
                waits=self._waits,
            )
        )

    def _all_finished(self, members: list[int], number: int) -> bool:
        plan = self.start.plan if self.start is not None and self.start.action is not Action.HOLD else None
        if plan is None:
            return False
        working = [i for i in members if SlotId(self.identity.node, i) in plan.slots]
        return bool(working) and all(self.workers[i].finished == number for i in working)

    def leave(self, reason: str, *, refused: bool = False) -> Iterator[MemberCommand]:
        if self.ended:
            return
        self.ended = True
        for index, worker in sorted(self.workers.items()):
            if worker.ref is not None:
                yield TellWorker(index, Exit(reason=reason))
        yield Leave(reason, refused)

    def _record(self) -> NodeRecord:
        identity = self.identity
        return NodeRecord(
            node=identity.node,
            incarnation=identity.incarnation,
            host=identity.host,
            port=identity.port,
            domain=identity.domain,
            agent_pid=identity.pid,
            workers=self.live_workers,
            died=tuple(worker for worker, _ in self._died),
            died_of=tuple(why for _, why in self._died),
        )

    def _failed(self, index: int, step: int, where: str, text: str) -> Iterator[MemberCommand]:
        """In the user's code, which is the same everywhere: the job ends with it. But a job that has begun showed that
        workers get warm elsewhere, so one that does not is a matter of this node's."""
        worker, slot, now = self.workers[index], SlotId(self.identity.node, index), self.generation
        if worker.ref is None and now is not None and (now.lineage or self.start is not None):
            worker.given_up = True
            if not (self.registered and self.live_workers):
                last = text.strip().splitlines()[-1:] or [where]
                yield from self.leave(f"{slot} cannot take part in the job: {last[0]}", refused=True)
            return
        name, number = worker.ref.worker if worker.ref is not None else None, worker.told_start
        record = FailureRecord(slot=slot, step=step, where=where, traceback=text, worker=name, generation=number)
        yield PutFailure(record)

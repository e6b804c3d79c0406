"""A fake agent: holdfast.agent.agent without asyncio, around the real Member. One action at a time.

Faithful where it matters: reports are written one by one and in order, progress is merged while it waits, PutNode
goes under whatever lease the agent holds when it is written, the watch follows revisions, the term runs beside it.
"""

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.clockwork.decoding import decoded
from harness.clockwork.term import Term
from harness.clockwork.worker import Worker, describe
from holdfast.control.member import Identity, Member
from holdfast.control.member_commands import (
    KillWorker,
    Leave,
    MemberCommand,
    ProbeLeader,
    PutAck,
    PutFailure,
    PutNode,
    PutProgress,
    PutSuspect,
    SpawnWorker,
    TellWorker,
)
from holdfast.errors import LeaseExpiredError
from holdfast.model.ids import NodeId, SlotId, WorkerId
from holdfast.model.records import (
    DrainRecord,
    GenerationRecord,
    LeaderRecord,
    NodeRecord,
    OutcomeRecord,
    ProgressRecord,
    StartRecord,
    WorkerRef,
)
from holdfast.model.wire import encode
from holdfast.ports.store import KeyValue, Put, WatchEvent

if TYPE_CHECKING:
    from harness.clockwork.world import World

Report = PutNode | PutAck | PutSuspect | PutProgress | PutFailure
_FOLLOWED = ("generation", "start", "outcome", "leader", "nodes", "drains")
# How long a campaign waits after the store refused its lease.
_RETRY_S = 0.3


class Agent:
    """One agent process and its workers. `frozen`: stopped (SIGSTOP); `dead`: killed, or it has left."""

    def __init__(self, world: "World", node: NodeId, slots: int, *, life: int) -> None:
        self._world, self.node, self._life = world, node, life
        self._incarnations = 0
        identity = Identity(
            node=node, incarnation=self._incarnation(), host=node, port=life, domain=node, pid=life, slots=slots
        )
        self.member = Member(identity, world.job.abort_s)
        self.workers: dict[int, Worker | None] = {}
        self.lease = world.keyspace.grant(1e9, now_s=world.now_s)
        self.dead = self.frozen = self.left = False
        self.silent_since_s: float | None = None
        self.thaws_at_s: float | None = None
        self.term: Term | None = None
        self._cursor = 0  # newest revision seen
        self._reports: deque[Report] = deque()
        self._leaders: dict[str, KeyValue] = {}
        self._leader_gone = False
        self._campaign_from_s = 0.0
        self._leader_probes = 0
        self._spawned = 0
        self._do(self.member.begin())

    @property
    def active(self) -> bool:
        return not self.dead and not self.frozen

    def live_workers(self) -> Iterable[Worker]:
        return (worker for worker in self.workers.values() if worker is not None and worker.alive)

    def _incarnation(self) -> str:
        self._incarnations += 1
        return f"{self.node}.{self._life}.{self._incarnations}"

    def _do(self, commands: Iterable[MemberCommand]) -> None:
        for command in commands:
            match command:
                case SpawnWorker(index):
                    self._spawn(index)
                case KillWorker(index):
                    worker = self.workers[index]
                    if worker is not None:
                        worker.die()
                case TellWorker(index, message):
                    worker = self.workers[index]
                    if worker is not None and worker.alive:
                        worker.to_worker.append(message)
                case ProbeLeader():
                    self._leader_probes += 1
                case Leave():
                    self.left = True
                case PutProgress(record) if (
                    self._reports
                    and isinstance(last := self._reports[-1], PutProgress)
                    and (last.record.generation == record.generation)
                ):
                    commits = (*last.record.commits, *record.commits)
                    self._reports[-1] = PutProgress(ProgressRecord(generation=record.generation, commits=commits))
                case _:
                    self._reports.append(command)

    def _spawn(self, index: int) -> None:
        self._spawned += 1
        name = f"{self.node}.{self._life}.w{self._spawned}"
        slot = SlotId(self.node, index)
        ref = WorkerRef(slot=slot, worker=WorkerId(name), address=f"{name}:1", pid=self._spawned)
        self.workers[index] = self._world.add_worker(self, Worker(self._world, ref))

    # Its tasks: each `can_*` says whether the action is possible, the other does it and says what it did.

    def can_expire(self) -> bool:
        return self.expires_at_s is not None and self._world.now_s >= self.expires_at_s

    @property
    def expires_at_s(self) -> float | None:
        """When its lease ends, unless it renews before."""
        if self.silent_since_s is None:
            return None
        return self.silent_since_s + self._world.lease_ttl_s

    def expire(self) -> str:
        self.silent_since_s = None
        self._world.revoke(self.lease)
        return f"lease {self.lease} ends"

    def can_thaw(self) -> bool:
        return self.thaws_at_s is not None and self._world.now_s >= self.thaws_at_s

    def thaw(self) -> str:
        self.frozen, self.thaws_at_s, self.silent_since_s = False, None, None
        for worker in self.live_workers():
            worker.frozen = False
        return "goes on"

    def can_renew(self) -> bool:
        """Only the renewal that fails matters: the lease is gone."""
        return self.active and not self._world.is_leased(self.lease)

    def renew(self) -> str:
        self.lease = self._world.keyspace.grant(1e9, now_s=self._world.now_s)
        self._do(self.member.rejoined(self._incarnation()))
        self._leader_gone = True
        return f"takes lease {self.lease}"

    def can_hear(self, worker: Worker) -> bool:
        return self.active and bool(worker.to_agent)

    def hear(self, worker: Worker) -> str:
        message = worker.to_agent.popleft()
        index = worker.slot.index
        if message is None:
            if self.workers[index] is worker and not self.left:
                self.workers[index] = None
                self._do(self.member.worker_ended(index, -9))
            return "end of worker"
        self._do(self.member.worker_said(index, message))
        return describe(message)

    def can_report(self) -> bool:
        return self.active and bool(self._reports)

    def report(self) -> str:
        key, value, lease = self._entry(self._reports.popleft())
        try:
            self._world.write([Put(key=key, value=value, lease=lease)])
        except LeaseExpiredError:
            return f"{key}: lease {lease} is gone"
        return key.removeprefix(self._world.keys.prefix)

    def _entry(self, report: Report) -> tuple[str, bytes, int]:
        keys = self._world.keys
        match report:
            case PutNode(record):
                return keys.node(record.node), encode(record), self.lease
            case PutAck(ack):
                return keys.ack(ack.generation, ack.node), encode(ack), 0
            case PutSuspect(suspect):
                return keys.suspect(suspect.generation, suspect.node), encode(suspect), 0
            case PutProgress(progress):
                return keys.one("progress"), encode(progress), 0
            case PutFailure(failure):
                return keys.one("failure"), encode(failure), 0

    def can_watch(self) -> bool:
        if not self.active or self._cursor >= self._world.keyspace.revision:
            return False
        if self._cursor == 0:
            return True
        for events in self._world.keyspace.history(self._world.keys.prefix, self._cursor + 1):
            if any(self._follows(event) for event in events):
                return True
            self._cursor = events[0].revision
        self._cursor = self._world.keyspace.revision
        return False

    def watch(self) -> str:
        if self._cursor == 0:
            snapshot = self._world.keyspace.get_prefix(self._world.keys.prefix)
            for kv in sorted(snapshot.kvs, key=lambda kv: kv.mod_revision):
                self._see(kv.key, kv)
            self._cursor = snapshot.revision
            self._leader_gone = True
            return "reads all"
        events = next(self._world.keyspace.history(self._world.keys.prefix, self._cursor + 1))
        self._cursor = events[0].revision
        for event in events:
            self._see(event.kv.key, event.kv if event.kind == "put" else None)
        return ", ".join(f"{event.kind} {event.kv.key.removeprefix(self._world.keys.prefix)}" for event in events)

    def _follows(self, event: WatchEvent) -> bool:
        kind, _, rest = event.kv.key.removeprefix(self._world.keys.prefix).partition("/")
        return kind in _FOLLOWED and (kind != "drains" or rest == self.node)

    def _see(self, key: str, kv: KeyValue | None) -> None:
        kind, _, rest = key.removeprefix(self._world.keys.prefix).partition("/")
        member, now_s = self.member, self._world.now_s
        match kind:
            case "leader" | "nodes":
                if kv is not None:
                    self._leaders[key] = kv
                else:
                    self._leaders.pop(key, None)
                    self._leader_gone = self._leader_gone or kind == "leader"
            case "drains" if rest == self.node:
                self._do(member.drain_seen(decoded(DrainRecord, kv.value) if kv is not None else None, now_s))
            case "generation" if kv is not None:
                self._do(member.generation_seen(decoded(GenerationRecord, kv.value), now_s))
            case "start" if kv is not None:
                self._do(member.start_seen(decoded(StartRecord, kv.value)))
            case "outcome" if kv is not None:
                self._do(member.outcome_seen(decoded(OutcomeRecord, kv.value)))

    def can_wake(self) -> bool:
        at_s = self.member.wake_at_s
        return at_s is not None and self.active and not self.left and self._world.now_s >= at_s

    def wake(self) -> str:
        self._do(self.member.time_passed(self._world.now_s))
        return "time passed"

    def waits(self, worker: Worker) -> str:
        """Its watchdog: a worker seems to wait for others, and has for too long."""
        self._do(self.member.worker_waits(worker.slot.index, f"{worker.slot} waits"))
        return "reports a long wait"

    def can_campaign(self) -> bool:
        return self._leader_gone and self.active and self.term is None and self._world.now_s >= self._campaign_from_s

    def campaign(self) -> str:
        self._leader_gone = False
        record = LeaderRecord(node=self.node, incarnation=self.member.identity.incarnation)
        try:
            self.term = Term.campaign(self._world, record, self.lease)
        except LeaseExpiredError:
            self._leader_gone, self._campaign_from_s = True, self._world.now_s + _RETRY_S
            return "its lease is gone"
        return "leads" if self.term is not None else "somebody else leads"

    @property
    def retries_at_s(self) -> float | None:
        return self._campaign_from_s if self._leader_gone and self.term is None and self.active else None

    def can_lead(self) -> bool:
        return self.term is not None and self.active and self.term.can_act()

    def lead(self) -> str:
        assert self.term is not None
        done = self.term.act()
        if self.term.over:
            self.term = None
        return done

    def can_probe_leader(self) -> bool:
        return self.active and self._leader_probes > 0

    def probe_leader(self) -> str:
        """Evicts a leader whose agent is gone."""
        self._leader_probes -= 1
        held = self._leaders.get(self._world.keys.one("leader"))
        if held is None:
            return "there is no leader"
        leader = decoded(LeaderRecord, held.value)
        node = self._leaders.get(self._world.keys.node(leader.node))
        if leader.node == self.node or node is None:
            return f"{leader.node} is not asked"
        record = decoded(NodeRecord, node.value)
        if self._world.is_refused(record):
            self._world.revoke(held.lease)
            return f"{leader.node} is gone"
        return f"{leader.node} lives or is silent"

    def can_leave(self) -> bool:
        return self.left and self.active and not self._reports

    def leave(self) -> str:
        for worker in self.live_workers():
            worker.die()
        self.dead, self.term = True, None
        self._world.revoke(self.lease)
        return "has left"

    def contact_lost(self, node: NodeId) -> None:
        """Its connection to that node is closed: it asks after the node if it leads, after the leader if not."""
        record = self._leaders.get(self._world.keys.node(node))
        if self.term is not None and record is not None and not self.left:
            self.term.ask_after(decoded(NodeRecord, record.value))
        self._leader_probes += 1

    # Faults.

    def kill(self, *, workers_too: bool) -> None:
        """Without its workers, these end when they see the end of their socket."""
        self.dead, self.term, self.thaws_at_s = True, None, None
        if self.silent_since_s is None and self._world.is_leased(self.lease):
            self.silent_since_s = self._world.now_s
        for worker in self.live_workers() if workers_too else ():
            worker.die()
        self._world.contact_broken(self)

    def freeze(self, for_s: float, *, workers_too: bool) -> None:
        self.frozen, self.thaws_at_s = True, self._world.now_s + for_s
        self.silent_since_s = self._world.now_s if self.silent_since_s is None else self.silent_since_s
        for worker in self.live_workers() if workers_too else ():
            worker.frozen = True

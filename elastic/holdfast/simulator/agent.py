"""A fake agent: holdfast.agent.agent without asyncio, around the real Member. One action at a time.

Faithful where it matters: reports are written one by one and in order, PutNode goes under whatever lease the agent
holds when it is written, the watch follows revisions, the term runs beside it, time is this machine's own.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from holdfast.control.member import Identity, Member
from holdfast.control.member_commands import (
    KillWorker,
    Leave,
    MemberCommand,
    ProbeLeader,
    ProbePeers,
    SpawnWorker,
    TakeSnapshot,
    TellWorker,
    TendTiers,
)
from holdfast.errors import LeaseExpiredError, StoreUnavailableError
from holdfast.model.ids import NodeId, SlotId, WorkerId
from holdfast.model.records import (
    DrainRecord,
    GenerationRecord,
    LeaderRecord,
    NodeRecord,
    OutcomeRecord,
    StartRecord,
    WorkerRef,
)
from holdfast.ports.store import KeyValue, WatchEvent
from holdfast.simulator.decoding import decoded
from holdfast.simulator.follower import Follower
from holdfast.simulator.network import Channel
from holdfast.simulator.reporter import Reporter
from holdfast.simulator.standby import Standby
from holdfast.simulator.storeside import BACK_OFF_S
from holdfast.simulator.telling import describe
from holdfast.simulator.term import Term
from holdfast.simulator.tiers import Tiers
from holdfast.simulator.worker import Worker

if TYPE_CHECKING:
    from holdfast.simulator.world import World

_FOLLOWED = ("generation", "start", "outcome", "leader", "nodes", "drains")
# Of a longer list of changes the transcript only says that they were read.
_TOLD = 6


class Agent:
    """One agent process and its workers. `frozen`: stopped (SIGSTOP); `dead`: killed, or it has left."""

    def __init__(self, world: "World", node: NodeId, slots: int, *, life: int) -> None:
        self._world, self.node, self._life = world, node, life
        self._incarnations = 0
        self.clock = world.network.clock()
        identity = Identity(
            node=node, incarnation=self._incarnation(), host=node, port=life, domain=node, pid=life, slots=slots
        )
        self.member = Member(identity, world.job.abort_s)
        self.workers: dict[int, Worker | None] = {}
        self.lease = 0  # none yet
        self.dead = self.frozen = self.left = False
        self.silent_since_s: float | None = None
        self.thaws_at_s: float | None = None
        self.leaves_by_s: float | None = None  # whatever is still to be said
        self.term: Term | None = None
        self.reporter = Reporter(world.store, world.keys, node)
        self.follower = Follower(world.store, world.keys, node)
        self.standby = Standby(world, self)
        self.tiers = Tiers(world, self)
        self._record_gone = False
        self._leasing = Channel()
        self.leaders: dict[str, KeyValue] = {}
        self._leader_gone = False
        self._campaign_from_s = 0.0
        self._spawned = 0
        self._begun = False
        if world.store.hears(node):
            self.renew()

    @property
    def active(self) -> bool:
        return not self.dead and not self.frozen

    @property
    def now_s(self) -> float:
        """What its clock shows."""
        return self.clock.read(self._world.now_s)

    @property
    def generation(self) -> int:
        """The newest one it has seen."""
        return self.member.generation.number if self.member.generation is not None else 0

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
                    self.standby.ask_leader()
                case ProbePeers(nodes):
                    keys = (self._world.keys.node(node) for node in nodes)
                    self.standby.ask(decoded(NodeRecord, kv.value) for key in keys if (kv := self.leaders.get(key)))
                case Leave():
                    self.left = True
                    self.leaves_by_s = self._world.now_s + self._world.lease_ttl_s
                case TendTiers(generation, start):
                    self.tiers.tend(generation, start)
                case TakeSnapshot(index, message):
                    self.tiers.snapshot_said(index, message)
                case _:
                    self.reporter.say(command)

    def _spawn(self, index: int) -> None:
        self._spawned += 1
        name = f"{self.node}.{self._life}.w{self._spawned}"
        slot = SlotId(self.node, index)
        ref = WorkerRef(slot=slot, worker=WorkerId(name), address=f"{name}:1", pid=self._spawned)
        self.workers[index] = self._world.add_worker(self, Worker(self._world, ref))

    # Its tasks: each `can_*` says whether the action is possible, the other does it and says what it did.

    def can_expire(self) -> bool:
        at_s = self.expires_at_s
        return at_s is not None and self._world.now_s >= at_s and not self._world.store.away

    @property
    def expires_at_s(self) -> float | None:
        """When its lease ends, unless it renews before."""
        return None if self.silent_since_s is None else self.silent_since_s + self._world.lease_lasts_s

    def expire(self) -> str:
        self.silent_since_s = None
        self._world.store.revoke(self.lease)
        return f"lease {self.lease} ends"

    def fall_silent(self) -> None:
        """Called whenever it may have become, or ceased to be, unable to renew its lease."""
        if self.active and self._world.store.serves(self.node):
            self.silent_since_s = None
            if self._world.store.is_leased(self.lease):
                self.standby.touch()
        elif self.silent_since_s is None and self._world.store.is_leased(self.lease):
            self.silent_since_s = self._world.now_s - self._world.since_renewal_s()
            self.standby.part(self.silent_since_s)

    def can_thaw(self) -> bool:
        return self.thaws_at_s is not None and self._world.now_s >= self.thaws_at_s

    def thaw(self) -> str:
        self.frozen, self.thaws_at_s = False, None
        self.fall_silent()
        for worker in self.live_workers():
            worker.frozen = False
        return "goes on"

    def can_renew(self) -> bool:
        """Only the renewal that fails matters: the lease is gone."""
        world = self._world
        held = world.store.is_leased(self.lease) and not self._record_gone
        if not self.active or held or world.now_s < self._leasing.ready_at_s:
            return False
        return world.store.serves(self.node)

    def renew(self) -> str:
        self._world.store.pause(self._leasing, self._world.now_s)
        try:
            if self._record_gone:
                self._world.store.revoke(self.lease, by=self.node)
            self.lease = self._world.store.grant(by=self.node)
        except StoreUnavailableError as error:
            self._world.store.back_off(self._leasing, self._world.now_s)
            return f"takes a lease: {error}"
        self._record_gone = False
        self.standby.touch()
        if not self._begun:
            self._begun = True
            self._do(self.member.begin())
        else:
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
        return self.active and self.reporter.can_write(self._world.now_s)

    def report(self) -> str:
        return self.reporter.write(self.lease, self._world.now_s)

    def can_watch(self) -> bool:
        now_s = self._world.now_s
        if not self.active or not self._begun:
            return False
        while self.follower.can_watch(now_s) and (events := self.follower.peek()):
            if any(self._follows(event) for event in events):
                return True
            self.follower.skip(events)
        return (not self.follower.revision or self.follower.behind) and self.follower.can_read(now_s)

    def watch(self) -> str:
        now_s = self._world.now_s
        if not self.follower.revision or self.follower.behind:
            try:
                changes = self.follower.catch_up(now_s)
            except StoreUnavailableError as error:
                return f"reads all: {error}"
            self._leader_gone = True  # as far as it knows
        else:
            changes = self.follower.take(self.follower.peek(), now_s)
        for key, kv in changes:
            self._see(key, kv)
        prefix = self._world.keys.prefix
        told = [f"{'delete' if kv is None else 'put'} {key.removeprefix(prefix)}" for key, kv in changes]
        return ", ".join(told) if told and len(told) < _TOLD else "reads all"

    def _follows(self, event: WatchEvent) -> bool:
        kind, _, rest = event.kv.key.removeprefix(self._world.keys.prefix).partition("/")
        return kind in _FOLLOWED and (kind != "drains" or rest == self.node)

    def _see(self, key: str, kv: KeyValue | None) -> None:
        kind, _, rest = key.removeprefix(self._world.keys.prefix).partition("/")
        member = self.member
        match kind:
            case "leader" | "nodes":
                if kv is not None:
                    self.leaders[key] = kv
                else:
                    before = self.leaders.pop(key, None)
                    if before is not None and kind == "nodes" and rest == self.node and not self.left:
                        said = decoded(NodeRecord, before.value).incarnation
                        self._record_gone = said == member.identity.incarnation
                    self._leader_gone = self._leader_gone or kind == "leader"
            case "drains" if rest == self.node:
                self._do(member.drain_seen(decoded(DrainRecord, kv.value) if kv is not None else None, self.now_s))
            case "generation" if kv is not None:
                self._do(member.generation_seen(decoded(GenerationRecord, kv.value), self.now_s))
            case "start" if kv is not None:
                self._do(member.start_seen(decoded(StartRecord, kv.value)))
            case "outcome" if kv is not None:
                self._do(member.outcome_seen(decoded(OutcomeRecord, kv.value)))

    @property
    def wakes_at_s(self) -> float | None:
        """In the world's time."""
        at_s = self.member.wake_at_s
        return self.clock.when(at_s) if at_s is not None and not self.left else None

    def can_wake(self) -> bool:
        at_s = self.wakes_at_s
        return at_s is not None and self.active and self._world.now_s >= at_s

    def wake(self) -> str:
        self._do(self.member.time_passed(self.now_s))
        return "time passed"

    def waits(self, worker: Worker) -> str:
        """Its watchdog: a worker seems to wait for others, and has for too long."""
        self._do(self.member.worker_waits(worker.slot.index, f"{worker.slot} waits"))
        return "reports a long wait"

    def can_campaign(self) -> bool:
        world = self._world
        able = self._leader_gone and self.active and self.term is None and world.now_s >= self._campaign_from_s
        return able and world.store.hears(self.node)

    def campaign(self) -> str:
        self._leader_gone = False
        record = LeaderRecord(node=self.node, incarnation=self.member.identity.incarnation)
        try:
            self.term = Term.campaign(self._world, self.clock, record, self.lease)
        except (LeaseExpiredError, StoreUnavailableError) as error:
            self._campaign_again()
            return f"campaigns: {error}"
        return "leads" if self.term is not None else "somebody else leads"

    def _campaign_again(self) -> None:
        self._leader_gone, self._campaign_from_s = True, self._world.now_s + BACK_OFF_S

    @property
    def retries_at_s(self) -> float | None:
        return self._campaign_from_s if self._leader_gone and self.term is None and self.active else None

    def can_lead(self) -> bool:
        return self.term is not None and self.active and self.term.can_act()

    def lead(self) -> str:
        assert self.term is not None
        return self._within_term(self.term.act)

    def can_keep_library(self) -> bool:
        return self.term is not None and self.active and self.term.library.can_act()

    def keep_library(self) -> str:
        assert self.term is not None
        return self._within_term(self.term.library.act)

    def can_probe(self) -> bool:
        return self.term is not None and self.active and self.term.can_probe()

    def probe(self) -> str:
        assert self.term is not None
        return self._within_term(self.term.probe)

    def _within_term(self, act: Callable[[], str]) -> str:
        try:
            done = act()
        except StoreUnavailableError as error:
            self.term = None
            self._campaign_again()
            return f"gives up its term: {error}"
        if self.term is not None and self.term.over:
            self.term = None
        return done

    def can_leave(self) -> bool:
        flushed = self.reporter.is_idle or (self.leaves_by_s is not None and self._world.now_s >= self.leaves_by_s)
        return self.left and self.active and flushed

    def leave(self) -> str:
        for worker in self.live_workers():
            worker.die()
        self.dead, self.term = True, None
        try:
            self._world.store.revoke(self.lease, by=self.node)
        except StoreUnavailableError:
            self.fall_silent()
        return "has left"

    def contact_lost(self, node: NodeId) -> None:
        """Its connection to that node is closed: it asks after the node if it leads, after the leader if not."""
        record = self.leaders.get(self._world.keys.node(node))
        if self.term is not None and record is not None and not self.left:
            self.term.ask_after(decoded(NodeRecord, record.value))
        self.standby.ask_leader()

    def carry_out(self, commands: Iterable[MemberCommand]) -> None:
        """What its session wants done."""
        self._do(commands)

    def deadlines(self) -> Iterable[float | None]:
        """When it may have something to do by itself, in the world's time."""
        yield self.expires_at_s if not self._world.store.away else None
        yield self.thaws_at_s
        if self.active:
            yield from (self.wakes_at_s, self.retries_at_s, self.leaves_by_s)
            yield from (self._leasing.ready_at_s, self.reporter.channel.ready_at_s, self.follower.channel.ready_at_s)
            yield from self.standby.deadlines()
            if self.term is not None:
                yield from self.term.deadlines()

    # Faults.

    def kill(self, *, workers_too: bool) -> None:
        """Without its workers, these end when they see the end of their socket."""
        self.dead, self.term, self.thaws_at_s = True, None, None
        self.fall_silent()
        for worker in self.live_workers() if workers_too else ():
            worker.die()
        self._world.contact_broken(self)

    def freeze(self, for_s: float, *, workers_too: bool) -> None:
        self.frozen, self.thaws_at_s = True, self._world.now_s + for_s
        self.fall_silent()
        for worker in self.live_workers() if workers_too else ():
            worker.frozen = True

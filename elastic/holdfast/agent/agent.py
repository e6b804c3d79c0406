"""One node's agent: keeps its lease, follows the store, supervises workers, and coordinates while it leads."""

import asyncio
import logging
import os
import signal
import uuid
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from holdfast.agent.claiming import NodeClaim
from holdfast.agent.contact import ContactPoint
from holdfast.agent.credentials import Credentials
from holdfast.agent.draining import ask_to_drain, own_drain, time_left_s
from holdfast.agent.following import Following, by_revision, surely
from holdfast.agent.http import HttpPort
from holdfast.agent.leading import Leader
from holdfast.agent.leasing import NodeLease, boot_time_s
from holdfast.agent.mending import Mender
from holdfast.agent.neighbours import Neighbours
from holdfast.agent.peers import Peers
from holdfast.agent.reporting import Reporter
from holdfast.agent.settings import AgentSettings
from holdfast.agent.terms import Terms
from holdfast.agent.tiers import Home, Tiers
from holdfast.agent.vitals import Vitals
from holdfast.agent.watchdog import watch_workers
from holdfast.agent.workers import Workers
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
from holdfast.errors import LeaseExpiredError, NodeRefusedError, ProtocolError, StoreError
from holdfast.model.claim import ClaimRecord
from holdfast.model.heartbeat import Permit
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.model.messages import FromWorker
from holdfast.model.records import (
    DrainRecord,
    GenerationRecord,
    JobRecord,
    LeaderRecord,
    NodeRecord,
    OutcomeRecord,
    StartRecord,
)
from holdfast.model.wire import decode
from holdfast.ports.store import KeyValue, Store
from holdfast.spec import JobSpec
from holdfast.stores.counted import CountedStore
from holdfast.telemetry.metrics import AgentMetrics

log = logging.getLogger(__name__)


class Agent:
    """`run` returns when this node has left or the job is over."""

    def __init__(self, settings: AgentSettings, store: Store, job: JobRecord) -> None:
        self._keys = Keys(job=settings.job)
        self._metrics = AgentMetrics(job, self._keys, settings.node)
        store = CountedStore(store, self._metrics.store_failed)
        self._settings, self._store, self._job = settings, store, job
        self._spec = JobSpec.model_validate(job.spec)
        timeouts = self._spec.timeouts
        self._lease = NodeLease(store, timeouts.lease_ttl_s, timeouts.orphan_s, self._permit, self._lapsed)
        self._permitted = Permit(0.0, 0)
        self._incarnation = uuid.uuid4().hex[:12]
        self._peers = Peers(Credentials(settings.secret, settings.job), settings.tls)
        self._claim = NodeClaim(store, self._keys, self._peers, timeouts.lease_ttl_s)
        self._tiers = Tiers(job, self._home(), settings.node, self._peers, settings.ram)
        self._reporter = Reporter(store, self._keys, lambda: self._lease.id)
        key, ram = self._peers.credentials.worker_key, self._tiers.ram.path
        self._workers = Workers(
            settings.node,
            settings.host,
            settings.scratch,
            job,
            key,
            ram,
            self._worker_said,
            self._worker_ended,
            settings.zygote,
        )
        self._member: Member | None = None
        self.vitals = Vitals(settings.node, self._workers, lambda: self._member, timeouts.progress_s)
        self._http = HttpPort(
            settings.listening,
            self._peers,
            lambda: self.vitals.alive(self._incarnation),
            self.vitals.status,
            ContactPoint(self._contact_lost),
            self._metrics.text,
            self._tiers.peers.routes(),
        )
        self._neighbours = Neighbours(
            store, self._keys, settings.node, self._peers, timeouts.probe_s, timeouts.lease_ttl_s
        )
        self._terms = Terms(
            lambda: Leader(store, self._keys, job, timeouts.probe_s, self._peers, self._tiers.remote),
            self._candidate,
            lost_s=timeouts.probe_s,
            away_s=timeouts.lease_ttl_s / 10,
        )
        self._mender = Mender(store, self._keys, settings.node, lambda: self._terms.current is not None)
        self._changed = asyncio.Event()
        self._left = asyncio.Event()
        self._refusal: str | None = None  # why this node cannot take part
        self.outcome: OutcomeRecord | None = None  # once the job is over
        self._tasks: asyncio.TaskGroup | None = None
        self._by_the_way: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Raises: NodeRefusedError: another agent has this node's name, or took it while this one stood still; or
        workers do not get ready here."""
        await self._http.open()
        identity = Identity(
            node=self._settings.node,
            incarnation=self._incarnation,
            host=self._settings.host,
            port=self._http.port,
            domain=self._settings.domain,
            pid=os.getpid(),
            slots=self._settings.slots,
        )
        timeouts = self._spec.timeouts
        self._member = Member(identity, timeouts.abort_s)
        try:
            asked_s = boot_time_s()
            lease = await self._lease.take()
            await self._claim.take(self._claim_record(), lease)
            self._lease.use(lease, asked_s)
            self._tiers.recall()
        except BaseException:
            await self._http.close()
            raise
        await self._workers.open(self._settings.slots)
        try:
            await self._take_part()
        finally:
            await self._workers.close()
            await self._tiers.close(time_left_s(self._node.drain, timeouts.lease_ttl_s, self._now_s()))
            await self._let_go(self._lease.id)
            await self._http.close()
        if self._refusal is not None:
            raise NodeRefusedError(self._refusal)

    async def _take_part(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._terminated)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            running = [
                tasks.create_task(work, name=name)
                for name, work in (
                    ("lease", self._lease.keep(self._rejoin)),
                    ("lease-age", self._lease.watch()),
                    ("report", self._reporter.run()),
                    ("follow", self._follow()),
                    ("mend", self._mender.run()),
                    ("lead", self._terms.run()),
                    ("contact", self._neighbours.keep_contact(self._leader_silent)),
                    ("tiers", self._tiers.run()),
                    ("watchdog", watch_workers(self._workers, self._node, self._spec.timeouts.progress_s, self._do)),
                    ("timer", self._wake()),
                )
            ]
            self._do(self._node.begin())
            await self._left.wait()
            await self._reporter.flush(self._spec.timeouts.lease_ttl_s)
            for task in (*running, *self._by_the_way):
                task.cancel()

    def _claim_record(self) -> ClaimRecord:
        identity = self._node.identity
        return ClaimRecord(
            node=identity.node,
            incarnation=self._incarnation,
            host=identity.host,
            port=identity.port,
            pid=identity.pid,
        )

    async def _let_go(self, lease: int) -> None:
        try:
            await self._store.revoke(lease)
        except StoreError as error:
            log.warning("lease.not_revoked", extra={"lease": lease, "error": str(error)})

    def _do(self, commands: Iterable[MemberCommand]) -> None:
        for command in commands:
            match command:
                case SpawnWorker(index):
                    self._metrics.worker_spawned(index)
                    self._background(self._workers.spawn(index), f"spawn-{index}")
                case KillWorker(index, reason):
                    self._workers.kill(index, reason, show_stacks=True)
                case TellWorker(index, message):
                    self._workers.tell(index, message)
                case TendTiers(generation, start):
                    self._tiers.tend(generation, start)
                case TakeSnapshot(index, message):
                    self._tiers.snapshot_said(index, message)
                case ProbeLeader():
                    self._background(self._neighbours.probe_leader(), "probe-leader")
                case ProbePeers(nodes):
                    self._background(self._probe_peers(nodes), "probe-peers")
                case Leave(reason, refused):
                    log.log(logging.ERROR if refused else logging.INFO, "agent.leave", extra={"reason": reason})
                    self._refusal = reason if refused else self._refusal
                    self._left.set()
                case _:
                    self._reporter.say(command)
        self._changed.set()

    def _home(self) -> Home:
        return Home(
            tell_worker=lambda index, message: self._workers.tell(index, message),
            worker_pid=lambda index: self._workers.pid(index),
            say_upload=lambda report: self._reporter.say(report),
            snapshots_changed=lambda inventory, unsound: self._node.stores(inventory, unsound),
            restore_failed=lambda number, detail: self._do(self._node.restore_failed(number, detail)),
            restore_waits=lambda number, why: self._do(self._node.restore_waits(number, why)),
            in_background=self._background,
            corrupt=self._metrics.found_corrupt,
        )

    def _background(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        """Until it is done or the agent leaves."""
        if self._left.is_set():
            work.close()
            return
        assert self._tasks is not None
        task = self._tasks.create_task(work, name=name)
        self._by_the_way.add(task)
        task.add_done_callback(self._by_the_way.discard)

    @property
    def _node(self) -> Member:
        assert self._member is not None
        return self._member

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()

    def _worker_said(self, index: int, message: FromWorker) -> None:
        self._do(self._node.worker_said(index, message))

    def _worker_ended(self, index: int, status: int, why: str) -> None:
        if not self._left.is_set():
            self._do(self._node.worker_ended(index, status, why))

    def _terminated(self) -> None:
        """SIGTERM: leave at a step boundary, or at once where nothing was begun. The deadline runs also while the store
        is away."""
        log.info("agent.sigterm")
        node, now_s = self._node, self._now_s()
        if not node.registered:
            self._left.set()
            return
        record = own_drain(node.identity, self._spec.timeouts.drain_s)
        if node.drain is not None and node.drain[1] <= now_s + record.grace_s:
            return  # it is to leave as soon already
        self._do(node.drain_seen(record, now_s))
        self._background(surely(partial(ask_to_drain, self._store, self._keys, record), "drain"), "drain-self")

    def _permit(self, until_s: float) -> None:
        self._permitted = Permit(until_s, self._permitted.lapsed)
        self._workers.permit(self._permitted)

    def _lapsed(self, detail: str) -> None:
        """The store was out of reach for too long: what this node takes part in may have been given up."""
        log.error("agent.orphaned", extra={"detail": detail})
        generation = self._node.generation
        if generation is not None:
            self._permitted = Permit(self._permitted.until_s, generation.number)
            self._workers.permit(self._permitted)
            self._do(self._node.orphaned(detail))

    async def _rejoin(self) -> None:
        """The lease ran out, or the node's record was deleted: register anew, with what the workers hold."""
        if self._left.is_set():
            return
        # First of all: what is deleted from now on under the one before is no news, and who asks this agent about its
        # claim finds it alive.
        self._incarnation = uuid.uuid4().hex[:12]
        while True:
            asked_s = boot_time_s()
            lease = await self._lease.take()
            try:
                await self._claim.take(self._claim_record(), lease)
                break
            except NodeRefusedError as error:
                log.error("node.replaced", extra={"error": str(error)})
                await self._let_go(lease)
                self._do(self._node.leave(str(error), refused=True))
                return
            except LeaseExpiredError:
                log.warning("lease.expired", extra={"lease": lease})
        self._lease.use(lease, asked_s)
        self._do(self._node.rejoined(self._incarnation))
        self._terms.vacant.set()

    async def _follow(self) -> None:
        """The store's content, then its changes, given to the session."""
        following = Following(self._store, self._keys.prefix, self._see, self._terms.vacant.set)
        for kv in by_revision((await following.read()).kvs):
            self._see(kv.key, kv)
        self._terms.vacant.set()
        await following.run()

    def _see(self, key: str, kv: KeyValue | None) -> None:
        if not self._mender.see(key, kv):
            return
        self._metrics.see(key, kv.value if kv is not None else None)
        kind, _, rest = key.removeprefix(self._keys.prefix).partition("/")
        if kind in ("leader", "nodes"):
            before = self._neighbours.record(self._settings.node)
            self._neighbours.see(key, kv)
            if kind == "leader" and kv is None:
                self._terms.vacant.set()
            if key == self._keys.node(self._settings.node) and kv is None and before is not None:
                self._record_gone(before)
            return
        node, now_s = self._node, self._now_s()
        try:
            if kind == "drains" and rest == self._settings.node:
                self._do(node.drain_seen(decode(DrainRecord, kv.value) if kv is not None else None, now_s))
            elif kv is None:
                return
            elif kind == "generation":
                generation = decode(GenerationRecord, kv.value)
                self._peers.credentials.expect(len(generation.agents))
                self._do(node.generation_seen(generation, now_s))
            elif kind == "start":
                self._do(node.start_seen(decode(StartRecord, kv.value)))
            elif kind == "outcome":
                self.outcome = decode(OutcomeRecord, kv.value)
                self._do(node.outcome_seen(self.outcome))
            elif kind == "spec" and self._is_another(decode(JobRecord, kv.value)):
                self._do(node.leave("the job was submitted anew"))
        except ProtocolError as error:
            log.error("agent.malformed", extra={"key": key, "error": str(error)})

    def _record_gone(self, record: NodeRecord) -> None:
        """Somebody took this node for dead, or its lease ran out: it says that it lives, under a new incarnation."""
        if record.incarnation == self._incarnation and not self._left.is_set():
            self._lease.lose()

    def _is_another(self, job: JobRecord) -> bool:
        """Whether the store holds another submission than the one this agent took; folders may differ by machine."""
        return replace(job, base=self._job.base, out=self._job.out) != self._job

    def _candidate(self) -> tuple[LeaderRecord, int] | None:
        if self._left.is_set():
            return None
        return LeaderRecord(node=self._settings.node, incarnation=self._node.identity.incarnation), self._lease.id

    async def _probe_peers(self, nodes: Iterable[NodeId]) -> None:
        silent = await self._neighbours.silent(nodes)
        self._do(self._node.peers_probed(silent, self._now_s()))

    def _leader_silent(self) -> None:
        self._do(self._node.contact_lost())

    def _contact_lost(self, node: NodeId) -> None:
        """A node's connection to this agent is gone: if this agent leads, ask after that node."""
        record = self._neighbours.record(node)
        term = self._terms.current
        if term is not None and record is not None:
            self._background(term.ask_after(record), f"ask-after-{node}")

    async def _wake(self) -> None:
        """Give the session its time."""
        while True:
            at_s = self._node.wake_at_s
            timeout = None if at_s is None else max(0.0, at_s - self._now_s())
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), timeout)
            except TimeoutError:
                self._do(self._node.time_passed(self._now_s()))

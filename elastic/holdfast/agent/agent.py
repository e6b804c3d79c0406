"""One node's agent: keeps its lease, follows the store, supervises workers, and coordinates while it leads."""

import asyncio
import logging
import os
import signal
import uuid
from collections.abc import Iterable
from functools import partial
from typing import Any

from holdfast.agent.claiming import SELF_DRAIN, claim_node
from holdfast.agent.contact import ContactPoint
from holdfast.agent.credentials import Credentials
from holdfast.agent.following import Following, by_revision, surely
from holdfast.agent.http import HttpPort
from holdfast.agent.leading import Leader, LostLeadershipError
from holdfast.agent.leasing import NodeLease, boot_time_s
from holdfast.agent.mending import Mender
from holdfast.agent.neighbours import Neighbours
from holdfast.agent.peers import Peers
from holdfast.agent.reporting import Reporter
from holdfast.agent.settings import AgentSettings
from holdfast.agent.workers import Workers
from holdfast.control.member import Identity, Member
from holdfast.control.member_commands import (
    KillWorker,
    Leave,
    MemberCommand,
    ProbeLeader,
    ProbePeers,
    SpawnWorker,
    TellWorker,
)
from holdfast.errors import LeaseExpiredError, ProtocolError, StoreUnavailableError, UserError
from holdfast.model.heartbeat import Permit, Phase
from holdfast.model.ids import NodeId
from holdfast.model.messages import FromWorker
from holdfast.model.records import (
    ClaimRecord,
    DrainRecord,
    GenerationRecord,
    JobRecord,
    Keys,
    LeaderRecord,
    NodeRecord,
    OutcomeRecord,
    StartRecord,
)
from holdfast.model.wire import decode, encode
from holdfast.ports.store import KeyValue, Store
from holdfast.spec import JobSpec

log = logging.getLogger(__name__)
# How many times the limit of its own code a worker may wait for the others.
_TURNS = 3
_WATCHDOG_S = 0.25


class Agent:
    """`run` returns when this node has left or the job is over."""

    def __init__(self, settings: AgentSettings, store: Store, job: JobRecord) -> None:
        self._settings, self._store, self._job = settings, store, job
        self._spec = JobSpec.model_validate(job.spec)
        self._keys = Keys(job=settings.job)
        timeouts = self._spec.timeouts
        self._lease = NodeLease(store, timeouts.lease_ttl_s, timeouts.orphan_s, self._permit, self._lapsed)
        self._permitted = Permit(0.0, 0)
        self._peers = Peers(Credentials(settings.secret, settings.job), settings.tls)
        contact = ContactPoint(self._contact_lost)
        self._http = HttpPort(settings.listening, self._peers, self._alive, self._status, contact)
        self._reporter = Reporter(store, self._keys, lambda: self._lease.id)
        worker_key = self._peers.credentials.worker_key
        self._workers = Workers(
            settings.node, settings.host, settings.scratch, job, worker_key, self._worker_said, self._worker_ended
        )
        self._member: Member | None = None
        self._neighbours = Neighbours(
            store, self._keys, settings.node, self._peers, timeouts.probe_s, timeouts.lease_ttl_s
        )
        self._mender = Mender(store, self._keys, settings.node, lambda: self._term is not None)
        self._leader_gone = asyncio.Event()
        self._term: Leader | None = None
        self._changed = asyncio.Event()
        self._left = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        await self._http.open()
        asked_s = boot_time_s()
        lease = await self._lease.take()
        identity = Identity(
            node=self._settings.node,
            incarnation=uuid.uuid4().hex[:12],
            host=self._settings.host,
            port=self._http.port,
            domain=self._settings.domain,
            pid=os.getpid(),
            slots=self._settings.slots,
        )
        self._member = Member(identity, self._spec.timeouts.abort_s)
        try:
            await self._claim(identity.incarnation, lease)
            self._lease.use(lease, asked_s)
        except BaseException:
            await self._http.close()
            raise
        await self._workers.open(self._settings.slots)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._terminated)
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
                    ("lead", self._lead()),
                    ("contact", self._neighbours.keep_contact(self._leader_silent)),
                    ("watchdog", self._watch_workers()),
                    ("timer", self._wake()),
                )
            ]
            self._do(self._member.begin())
            await self._left.wait()
            await self._reporter.flush(self._spec.timeouts.lease_ttl_s)
            for task in running:
                task.cancel()
        await self._workers.close()
        try:
            await self._store.revoke(self._lease.id)
        except StoreUnavailableError:
            log.warning("agent.store_unavailable")
        await self._http.close()

    async def _claim(self, incarnation: str, lease: int) -> None:
        """Raises: UserError: another live agent has this node's name."""
        identity = self._node.identity
        claim = ClaimRecord(
            node=identity.node,
            incarnation=incarnation,
            host=identity.host,
            port=identity.port,
            pid=identity.pid,
        )
        ttl_s = self._spec.timeouts.lease_ttl_s
        await claim_node(self._store, self._keys, claim, lease, ttl_s, self._peers)

    def _do(self, commands: Iterable[MemberCommand]) -> None:
        for command in commands:
            match command:
                case SpawnWorker(index):
                    self._background(self._workers.spawn(index), f"spawn-{index}")
                case KillWorker(index, reason):
                    self._workers.kill(index, reason, show_stacks=True)
                case TellWorker(index, message):
                    self._workers.tell(index, message)
                case ProbeLeader():
                    self._background(self._neighbours.probe_leader(), "probe-leader")
                case ProbePeers(nodes):
                    self._background(self._probe_peers(nodes), "probe-peers")
                case Leave(reason):
                    log.info("agent.leave", extra={"reason": reason})
                    self._left.set()
                case _:
                    self._reporter.say(command)
        self._changed.set()

    def _background(self, work: Any, name: str) -> None:
        assert self._tasks is not None
        self._tasks.create_task(work, name=name)

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
        """SIGTERM: leave at a step boundary, or at once where nothing was begun."""
        log.info("agent.sigterm")
        if not self._node.registered:
            self._left.set()
            return
        record = DrainRecord(node=self._settings.node, grace_s=self._spec.timeouts.drain_s, reason=SELF_DRAIN)
        write = partial(self._store.put, self._keys.drain(record.node), encode(record))
        self._background(surely(write, "drain"), "drain-self")

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
        incarnation = uuid.uuid4().hex[:12]
        while True:
            asked_s = boot_time_s()
            lease = await self._lease.take()
            try:
                await self._claim(incarnation, lease)
                break
            except UserError as error:
                log.error("node.replaced", extra={"error": str(error)})
                self._left.set()
                return
            except LeaseExpiredError:
                log.warning("lease.expired", extra={"lease": lease})
        self._lease.use(lease, asked_s)
        self._do(self._node.rejoined(incarnation))
        self._leader_gone.set()

    async def _follow(self) -> None:
        """The store's content, then its changes, given to the session."""
        following = Following(self._store, self._keys.prefix, self._see, self._leader_gone.set)
        for kv in by_revision((await following.read()).kvs):
            self._see(kv.key, kv)
        self._leader_gone.set()
        await following.run()

    def _see(self, key: str, kv: KeyValue | None) -> None:
        if not self._mender.see(key, kv):
            return
        kind, _, rest = key.removeprefix(self._keys.prefix).partition("/")
        if kind in ("leader", "nodes"):
            before = self._neighbours.record(self._settings.node)
            self._neighbours.see(key, kv)
            if kind == "leader" and kv is None:
                self._leader_gone.set()
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
                self._do(node.generation_seen(decode(GenerationRecord, kv.value), now_s))
            elif kind == "start":
                self._do(node.start_seen(decode(StartRecord, kv.value)))
            elif kind == "outcome":
                self._do(node.outcome_seen(decode(OutcomeRecord, kv.value)))
        except ProtocolError as error:
            log.error("agent.malformed", extra={"key": key, "error": str(error)})

    def _record_gone(self, record: NodeRecord) -> None:
        """Somebody took this node for dead, or its lease ran out: it says that it lives, under a new incarnation."""
        if record.incarnation == self._node.identity.incarnation and not self._left.is_set():
            self._lease.lose()

    async def _lead(self) -> None:
        """Campaign whenever there is no leader; lead while elected."""
        while True:
            await self._leader_gone.wait()
            self._leader_gone.clear()
            me = LeaderRecord(node=self._settings.node, incarnation=self._node.identity.incarnation)
            leader = Leader(self._store, self._keys, self._job, self._spec.timeouts.probe_s, self._peers)
            try:
                if await leader.campaign(me, self._lease.id):
                    self._term = leader
                    await leader.lead()
            except* LostLeadershipError:
                # Its own key may stand still: then it leads again, from what the store holds now.
                log.warning("leader.lost")
                await asyncio.sleep(self._spec.timeouts.probe_s)
                self._leader_gone.set()
            except* (StoreUnavailableError, LeaseExpiredError) as group:
                log.warning("leader.store_unavailable", extra={"error": repr(group.exceptions)})
                await asyncio.sleep(self._spec.timeouts.lease_ttl_s / 10)
                self._leader_gone.set()
            finally:
                self._term = None

    async def _probe_peers(self, nodes: Iterable[NodeId]) -> None:
        silent = await self._neighbours.silent(nodes)
        self._do(self._node.peers_probed(silent, self._now_s()))

    def _leader_silent(self) -> None:
        self._do(self._node.contact_lost())

    def _contact_lost(self, node: NodeId) -> None:
        """A node's connection to this agent is gone: if this agent leads, ask after that node."""
        record = self._neighbours.record(node)
        if self._term is not None and record is not None and not self._left.is_set():
            self._background(self._term.ask_after(record), f"ask-after-{node}")

    async def _watch_workers(self) -> None:
        """Kill what makes no progress in its own code. Who waits for others is rarely the one that hangs: it is only
        reported, after the others had their turn."""
        limit_s = self._spec.timeouts.progress_s
        while True:
            await asyncio.sleep(_WATCHDOG_S)
            for ref in self._node.live_workers:
                index = ref.slot.index
                phase, silent_s = self._workers.silent_s(index)
                if phase is Phase.COMPUTE and silent_s > limit_s:
                    self._workers.kill(index, f"no progress for {silent_s:.0f} s", show_stacks=True)
                elif phase is Phase.COMMUNICATE and silent_s > _TURNS * limit_s:
                    self._do(self._node.worker_waits(index, f"{ref.slot} has waited for {silent_s:.0f} s"))

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

    def _alive(self) -> dict[str, Any]:
        workers = [ref.worker for ref in self._node.live_workers] if not self._left.is_set() else []
        return {"incarnation": self._node.identity.incarnation, "workers": workers}

    def _status(self) -> dict[str, Any]:
        generation = self._node.generation
        return {
            "node": self._settings.node,
            "state": self._node.node_state,
            "generation": generation.number if generation is not None else None,
            "step": self._node.step,
            "agent_pid": os.getpid(),
            "worker_pids": list(self._workers.pids()),
        }


def node_id(text: str) -> NodeId:
    """Raises: ValueError: a node's name must fit into a key."""
    if not text or any(c not in "abcdefghijklmnopqrstuvwxyz0123456789.-" for c in text):
        raise ValueError(f"node {text!r}: use a-z, 0-9, '.' and '-'")
    return NodeId(text)

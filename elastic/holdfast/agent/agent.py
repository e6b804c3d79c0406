"""One node's agent: keeps its lease, follows the store, supervises workers, and coordinates while it leads."""

import asyncio
import logging
import os
import signal
import uuid
from collections.abc import Iterable
from typing import Any

from holdfast.agent.contact import ContactPoint, hold_contact
from holdfast.agent.http import HttpPort
from holdfast.agent.leading import Leader, LostLeadershipError, evict
from holdfast.agent.probing import Verdict, probe
from holdfast.agent.reporting import Reporter
from holdfast.agent.settings import AgentSettings
from holdfast.agent.workers import Workers
from holdfast.control.member import Identity, Member
from holdfast.control.member_commands import (
    KillWorker,
    Leave,
    MemberCommand,
    ProbeLeader,
    SpawnWorker,
    TellWorker,
)
from holdfast.errors import LeaseExpiredError, ProtocolError, StoreUnavailableError
from holdfast.model.heartbeat import Phase
from holdfast.model.ids import NodeId
from holdfast.model.messages import FromWorker
from holdfast.model.records import (
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
_CONTACT_PAUSE_S = 0.2  # between attempts to reach a leader that does not take the connection


class Agent:
    """`run` returns when this node has left or the job is over."""

    def __init__(self, settings: AgentSettings, store: Store, job: JobRecord) -> None:
        self._settings, self._store, self._job = settings, store, job
        self._spec = JobSpec.model_validate(job.spec)
        self._keys = Keys(job=settings.job)
        self._lease = 0
        self._http = HttpPort(settings.host, self._alive, self._status, ContactPoint(self._contact_lost))
        self._reporter = Reporter(store, self._keys, lambda: self._lease)
        self._workers = Workers(
            settings.node, settings.host, settings.scratch, job, self._worker_said, self._worker_ended
        )
        self._member: Member | None = None
        self._leaders: dict[str, KeyValue] = {}  # the leader key and all node records, as last seen
        self._leader_gone = asyncio.Event()
        self._leader_known = asyncio.Event()
        self._term: Leader | None = None
        self._changed = asyncio.Event()
        self._left = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        await self._http.open()
        self._lease = await self._store.grant(self._spec.timeouts.lease_ttl_s)
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
        await self._workers.open(self._settings.slots)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._terminated)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            running = [
                tasks.create_task(work, name=name)
                for name, work in (
                    ("lease", self._keep_lease()),
                    ("report", self._reporter.run()),
                    ("follow", self._follow()),
                    ("lead", self._lead()),
                    ("contact", self._keep_contact()),
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
            await self._store.revoke(self._lease)
        except StoreUnavailableError:
            log.warning("agent.store_unavailable")
        await self._http.close()

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
                    self._background(self._probe_leader(), "probe-leader")
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

    def _worker_ended(self, index: int, status: int) -> None:
        if not self._left.is_set():
            self._do(self._node.worker_ended(index, status))

    def _terminated(self) -> None:
        """SIGTERM: leave at a step boundary, or at once where nothing was begun."""
        log.info("agent.sigterm")
        if not self._node.registered:
            self._left.set()
            return
        record = DrainRecord(node=self._settings.node, grace_s=self._spec.timeouts.drain_s, reason="SIGTERM")
        self._background(self._store.put(self._keys.drain(record.node), encode(record)), "drain-self")

    async def _keep_lease(self) -> None:
        """Renew every third of its life. A lease that ran out (this agent was frozen) is taken anew, and the node
        joins again with what its workers hold."""
        interval_s = self._spec.timeouts.lease_ttl_s / 3
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self._store.keep_alive(self._lease)
            except StoreUnavailableError:
                log.warning("lease.store_unavailable")
            except LeaseExpiredError:
                log.warning("lease.expired")
                self._lease = await self._store.grant(self._spec.timeouts.lease_ttl_s)
                self._do(self._node.rejoined(uuid.uuid4().hex[:12]))
                self._leader_gone.set()

    async def _follow(self) -> None:
        """The store's content, then its changes, given to the session."""
        snapshot = await self._store.get_prefix(self._keys.prefix)
        for kv in sorted(snapshot.kvs, key=lambda kv: kv.mod_revision):
            self._see(kv.key, kv)
        self._leader_gone.set()
        async for changes in self._store.watch(self._keys.prefix, snapshot.revision + 1):
            for change in changes:
                self._see(change.kv.key, change.kv if change.kind == "put" else None)

    def _see(self, key: str, kv: KeyValue | None) -> None:
        kind, _, rest = key.removeprefix(self._keys.prefix).partition("/")
        if kind in ("leader", "nodes"):
            if kv is not None:
                self._leaders[key] = kv
            else:
                self._leaders.pop(key, None)
            if kind == "leader" and kv is None:
                self._leader_gone.set()
            self._leader_known.set()
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

    async def _lead(self) -> None:
        """Campaign whenever there is no leader; lead while elected."""
        while True:
            await self._leader_gone.wait()
            self._leader_gone.clear()
            me = LeaderRecord(node=self._settings.node, incarnation=self._node.identity.incarnation)
            leader = Leader(self._store, self._keys, self._job, self._spec.timeouts.probe_s)
            try:
                if await leader.campaign(me, self._lease):
                    self._term = leader
                    await leader.lead()
            except* LostLeadershipError:
                log.warning("leader.lost")
            except* (StoreUnavailableError, LeaseExpiredError) as group:
                log.warning("leader.store_unavailable", extra={"error": repr(group.exceptions)})
                await asyncio.sleep(self._spec.timeouts.lease_ttl_s / 10)
                self._leader_gone.set()
            finally:
                self._term = None

    def _other_leader(self) -> tuple[KeyValue, NodeRecord] | None:
        """The leader's key and its node's record, if another node leads and both are known."""
        held = self._leaders.get(self._keys.one("leader"))
        if held is None:
            return None
        leader = decode(LeaderRecord, held.value)
        node = self._leaders.get(self._keys.node(leader.node))
        if node is None or leader.node == self._settings.node:
            return None
        return held, decode(NodeRecord, node.value)

    async def _probe_leader(self) -> None:
        """Who lost contact with a peer asks after the leader: nobody else would, if it is the leader that died."""
        known = self._other_leader()
        if known is None:
            return
        held, record = known
        verdict, _ = await probe(record.host, record.port, record.incarnation, self._spec.timeouts.probe_s)
        if verdict is Verdict.REFUSED:
            await evict(self._store, held, "the coordinating agent is gone")

    async def _keep_contact(self) -> None:
        """Hold a connection to whoever leads; when it breaks, find out why."""
        while True:
            self._leader_known.clear()
            known = self._other_leader()
            if known is None:
                await self._leader_known.wait()
                continue
            _, record = known
            await hold_contact(record.host, record.port, self._settings.node)
            await self._probe_leader()
            await asyncio.sleep(_CONTACT_PAUSE_S)

    def _contact_lost(self, node: NodeId) -> None:
        """A node's connection to this agent is gone: if this agent leads, ask after that node."""
        record = self._leaders.get(self._keys.node(node))
        if self._term is not None and record is not None and not self._left.is_set():
            self._background(self._term.ask_after(decode(NodeRecord, record.value)), f"ask-after-{node}")

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
        workers = [ref.worker for ref in self._node.live_workers]
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


async def read_job(store: Store, job: str) -> JobRecord:
    """Wait for the job to be submitted."""
    key = Keys(job=job).one("spec")
    held = await store.get(key)
    if held is None:
        async for changes in store.watch(key, 1):
            held = next((c.kv for c in changes if c.kind == "put" and c.kv.key == key), None)
            if held is not None:
                break
    assert held is not None
    return decode(JobRecord, held.value)


def node_id(text: str) -> NodeId:
    """Raises: ValueError: a node's name must fit into a key."""
    if not text or any(c not in "abcdefghijklmnopqrstuvwxyz0123456789.-" for c in text):
        raise ValueError(f"node {text!r}: use a-z, 0-9, '.' and '-'")
    return NodeId(text)

"""Coordinating: campaign for the leader key, and while it is held feed the coordinator and do what it says.

Every write is fenced: its transaction holds only while the leader key is the one this agent created.
"""

import asyncio
import logging
from collections.abc import Sequence

from holdfast.agent.probing import Verdict, probe
from holdfast.control.coordinator import Coordinator
from holdfast.control.feed import events_of
from holdfast.control.job import job_of
from holdfast.errors import LeaseExpiredError, ProtocolError, StoreUnavailableError
from holdfast.model.commands import (
    Command,
    EvictNode,
    ProbeNode,
    ReleaseDrain,
    WriteGeneration,
    WriteOutcome,
    WriteStart,
)
from holdfast.model.events import Event, ProbeAnswered, TimePassed
from holdfast.model.ids import NodeId
from holdfast.model.records import GenerationRecord, JobRecord, Keys, LeaderRecord, NodeRecord, StartRecord
from holdfast.model.wire import decode, encode
from holdfast.ports.store import Compare, Delete, KeyValue, Operation, Put, Snapshot, Store

log = logging.getLogger(__name__)


class LostLeadershipError(Exception):
    """A fenced write was refused: somebody else leads, or nobody."""


class Leader:
    """One term: from winning the leader key until it is lost or the job ends."""

    def __init__(self, store: Store, keys: Keys, job: JobRecord, probe_s: float) -> None:
        self._store, self._keys, self._job, self._probe_s = store, keys, job, probe_s
        self._fence: Compare | None = None
        self._inbox: asyncio.Queue[Event] = asyncio.Queue()
        self._previous_keys: dict[int, list[str]] = {}

    async def campaign(self, me: LeaderRecord, lease: int) -> bool:
        """Try once to become leader."""
        key = self._keys.one("leader")
        won = await self._store.transact(
            [Compare(key=key, exists=False)], [Put(key=key, value=encode(me), lease=lease)]
        )
        if not won.succeeded:
            return False
        held = await self._store.get(key)
        if held is None or held.lease != lease:
            return False
        self._fence = Compare(key=key, create_revision=held.create_revision)
        log.info("leader.won", extra={"revision": won.revision})
        return True

    async def lead(self) -> None:
        """Until the job ends. Raises: LostLeadershipError."""
        snapshot = await self._retry_read()
        if any(kv.key == self._keys.one("outcome") for kv in snapshot.kvs):
            return  # a node that thawed after the end: nothing is left to decide
        coordinator = self._restore(snapshot)
        async with asyncio.TaskGroup() as tasks:
            watcher = tasks.create_task(self._watch(snapshot.revision + 1), name="leader-watch")
            event: Event = TimePassed()
            ended = False
            while not ended:
                for command in coordinator.handle(event, self._now_s()):
                    ended = await self._carry_out(command, tasks) or ended
                if not ended:
                    event = await self._next_event(coordinator.wake_at_s)
            watcher.cancel()

    def _restore(self, snapshot: Snapshot) -> Coordinator:
        stored = {kv.key: kv.value for kv in snapshot.kvs}
        generation = start = None
        if (raw := stored.get(self._keys.one("generation"))) is not None:
            generation = decode(GenerationRecord, raw)
            if (raw := stored.get(self._keys.start(generation.number))) is not None:
                start = decode(StartRecord, raw)
        now = self._now_s()
        coordinator = Coordinator(job_of(self._job), now_s=now, generation=generation, start=start)
        for kv in sorted(snapshot.kvs, key=_nodes_first):
            for event in self._events(kv.key, kv.value):
                coordinator.absorb(event, now)
        return coordinator

    async def _retry_read(self) -> Snapshot:
        while True:
            try:
                return await self._store.get_prefix(self._keys.prefix)
            except StoreUnavailableError:
                log.warning("leader.store_unavailable")

    async def _watch(self, revision: int) -> None:
        async for changes in self._store.watch(self._keys.prefix, revision):
            for change in changes:
                value = change.kv.value if change.kind == "put" else None
                for event in self._events(change.kv.key, value):
                    self._inbox.put_nowait(event)

    def _events(self, key: str, value: bytes | None) -> Sequence[Event]:
        try:
            return tuple(events_of(self._keys, key, value))
        except ProtocolError as error:
            log.error("leader.malformed", extra={"key": key, "error": str(error)})
            return ()

    async def _next_event(self, wake_at_s: float | None) -> Event:
        try:
            timeout = None if wake_at_s is None else max(0.0, wake_at_s - self._now_s())
            return await asyncio.wait_for(self._inbox.get(), timeout)
        except TimeoutError:
            return TimePassed()

    async def _carry_out(self, command: Command, tasks: asyncio.TaskGroup) -> bool:
        """True for the last command of a job."""
        keys = self._keys
        match command:
            case WriteGeneration(record):
                log.info(
                    "generation.begin",
                    extra={"generation": record.number, "cause": record.cause, "reason": record.reason},
                )
                await self._write([Put(key=keys.one("generation"), value=encode(record)), *self._forget(record)])
            case WriteStart(record):
                layout = record.plan.describe() if record.plan is not None else None
                log.info(
                    "generation.start",
                    extra={
                        "generation": record.generation,
                        "action": record.action,
                        "step": record.version.step,
                        "layout": layout,
                        "transfers": len(record.transfers),
                    },
                )
                await self._write([Put(key=keys.start(record.generation), value=encode(record))])
            case WriteOutcome(record):
                log.info("job.ended", extra={"result": record.result, "reason": record.reason})
                await self._write([Put(key=keys.one("outcome"), value=encode(record))])
                return True
            case ReleaseDrain(record):
                await self._write([Put(key=keys.drain(record.node), value=encode(record))])
            case ProbeNode(record):
                tasks.create_task(self.ask_after(record), name=f"probe-{record.node}")
            case EvictNode(record, reason):
                await self._evict(record, reason)
        return False

    def _forget(self, record: GenerationRecord) -> list[Operation]:
        """Delete what the generation before the last one left."""
        number = record.number
        nodes: set[NodeId] = {ref.slot.node for ref in record.members}
        mine = [self._keys.start(number)]
        mine += [
            key for node in sorted(nodes) for key in (self._keys.ack(number, node), self._keys.suspect(number, node))
        ]
        self._previous_keys[number] = mine
        return [Delete(key=key) for key in self._previous_keys.pop(number - 2, [])]

    async def _write(self, operations: list[Operation]) -> None:
        assert self._fence is not None
        while True:
            try:
                result = await self._store.transact([self._fence], operations)
            except StoreUnavailableError:
                # The same decision again: all of these writes may safely be repeated under the same fence.
                log.warning("leader.store_unavailable")
                continue
            if not result.succeeded:
                raise LostLeadershipError
            return

    async def ask_after(self, record: NodeRecord) -> None:
        """Probe a node; evict it if it is dead, else tell the coordinator what it answered."""
        verdict, workers = await probe(record.host, record.port, record.incarnation, self._probe_s)
        if verdict is Verdict.REFUSED:
            await self._evict(record, "its agent is gone")
        else:
            answer = workers if verdict is Verdict.ALIVE else None
            self._inbox.put_nowait(ProbeAnswered(record.node, record.incarnation, answer))

    async def _evict(self, record: NodeRecord, reason: str) -> None:
        held = await self._store.get(self._keys.node(record.node))
        if held is not None and decode(NodeRecord, held.value).incarnation == record.incarnation:
            await evict(self._store, held, reason)

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()


async def evict(store: Store, held: KeyValue, reason: str) -> None:
    """End the lease that `held` hangs on, and so everything its owner said in the store."""
    log.warning("node.evict", extra={"key": held.key, "reason": reason})
    try:
        await store.revoke(held.lease)
    except (StoreUnavailableError, LeaseExpiredError) as error:
        log.warning("node.evict_failed", extra={"key": held.key, "error": str(error)})


def _nodes_first(kv: KeyValue) -> tuple[bool, str]:
    """Acks are read against node records, so those come first."""
    return "/nodes/" not in kv.key, kv.key

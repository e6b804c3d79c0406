"""Coordinating: campaign for the leader key, and while it is held feed the coordinator and do what it says.

Every write is fenced: its transaction holds only while the leader key is the one this agent created.
"""

import asyncio
import logging
from collections.abc import Collection, Sequence

from holdfast.agent.following import Following, surely
from holdfast.agent.librarian import Librarian
from holdfast.agent.peers import Peers
from holdfast.agent.probing import Verdict, probe
from holdfast.agent.remote_tier import RemoteTier
from holdfast.control.coordinator import Coordinator
from holdfast.control.feed import events_of
from holdfast.control.job import job_of
from holdfast.control.litter import BATCH_MAX, Litter
from holdfast.errors import ProtocolError, StoreError
from holdfast.model.commands import (
    Command,
    CommitCheckpoint,
    EvictNode,
    ProbeNode,
    ReleaseDrain,
    WriteGeneration,
    WriteOutcome,
    WriteStart,
)
from holdfast.model.events import (
    AckReceived,
    CheckpointFailed,
    Event,
    NodeRefused,
    PaceTold,
    ProbeAnswered,
    TimePassed,
    UploadReported,
)
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.model.records import (
    CheckpointsRecord,
    DrainRecord,
    GenerationRecord,
    JobRecord,
    LeaderRecord,
    NodeAck,
    NodeRecord,
    OutcomeRecord,
    StartRecord,
    Version,
)
from holdfast.model.wire import decode, encode
from holdfast.ports.store import Compare, Delete, KeyValue, Operation, Put, Snapshot, Store

log = logging.getLogger(__name__)
# From so many slots on deciding may take long enough to keep this agent from renewing its lease and answering probes.
_LARGE_SLOTS = 64
_UNASKED_TIMES = 5


class LostLeadershipError(Exception):
    """A fenced write was refused: somebody else leads, or nobody."""


class Leader:
    """One term: from winning the leader key until it is lost or the job ends."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        job: JobRecord,
        probe_s: float,
        peers: Peers,
        remote: RemoteTier | None = None,
    ) -> None:
        """`remote`: where checkpoints are, if the job has any."""
        self._librarian = Librarian(remote, job, self._write_checkpoints) if remote is not None else None
        self._store, self._keys, self._job, self._probe_s, self._peers = store, keys, job, probe_s, peers
        self._fence: Compare | None = None
        self._inbox: asyncio.Queue[Event] = asyncio.Queue()
        self._litter = Litter(keys)
        self._following = Following(store, keys.prefix, self._see)
        self._generation_revision = 0  # of the newest one; 0: there is none

    async def campaign(self, me: LeaderRecord, lease: int) -> bool:
        """Try once to become leader."""
        key = self._keys.one("leader")
        await self._store.transact([Compare(key=key, exists=False)], [Put(key=key, value=encode(me), lease=lease)])
        # Its own key may stand there from an attempt whose answer was lost.
        held = await self._store.get(key)
        if held is None or held.lease != lease:
            return False
        self._fence = Compare(key=key, create_revision=held.create_revision)
        log.info("leader.won", extra={"revision": held.create_revision})
        return True

    async def lead(self) -> None:
        """Until the job ends. Raises: LostLeadershipError."""
        snapshot = await self._following.read()
        try:
            if any(kv.key == self._keys.one("outcome") and decode(OutcomeRecord, kv.value) for kv in snapshot.kvs):
                return  # a node that thawed after the end: nothing is left to decide
            coordinator = self._restore(snapshot)
        except ProtocolError as error:
            # Whoever knows what stood there puts it back (`mending`); nothing may be decided before.
            log.error("leader.malformed", extra={"error": str(error)})
            raise LostLeadershipError from error
        async with asyncio.TaskGroup() as tasks:
            watcher = tasks.create_task(self._following.run(), name="leader-watch")
            event: Event = TimePassed()
            ended = False
            while True:
                for command in await self._decide(coordinator, event):
                    ended = await self._carry_out(command, tasks) or ended
                if ended:
                    break
                event = await self._next_event(coordinator.wake_at_s)
                while not self._inbox.empty():  # what happened close together is decided upon together
                    coordinator.absorb(event, self._now_s())
                    event = self._inbox.get_nowait()
            watcher.cancel()

    async def resign(self) -> None:
        """Let another lead, as far as the store can be told within a moment."""
        if self._fence is None:
            return
        try:
            async with asyncio.timeout(self._probe_s):
                await self._store.transact([self._fence], [Delete(key=self._fence.key)])
        except (StoreError, TimeoutError) as error:
            log.warning("leader.not_resigned", extra={"error": str(error)})

    async def _decide(self, coordinator: Coordinator, event: Event) -> Sequence[Command]:
        """Of a large job on a thread, for it is pure; nothing else touches the coordinator meanwhile."""
        if sum(len(record.workers) for record in coordinator.view.nodes.values()) < _LARGE_SLOTS:
            return coordinator.handle(event, self._now_s())
        return await asyncio.to_thread(coordinator.handle, event, self._now_s())

    def _restore(self, snapshot: Snapshot) -> Coordinator:
        stored = {kv.key: kv.value for kv in snapshot.kvs}
        generation = start = None
        if (raw := stored.get(self._keys.one("generation"))) is not None:
            generation = decode(GenerationRecord, raw)
            self._generation_revision = next(
                kv.mod_revision for kv in snapshot.kvs if kv.key == self._keys.one("generation")
            )
            if (raw := stored.get(self._keys.start(generation.number))) is not None:
                start = decode(StartRecord, raw)
        now = self._now_s()
        coordinator = Coordinator(job_of(self._job), now_s=now, generation=generation, start=start)
        for kv in sorted(snapshot.kvs, key=_nodes_first):
            self._litter.seen(kv.key, deleted=False)
            for event in self._events(kv.key, kv.value):
                coordinator.absorb(event, now)
        return coordinator

    def _see(self, key: str, kv: KeyValue | None) -> None:
        self._litter.seen(key, deleted=kv is None)
        for event in self._events(key, kv.value if kv is not None else None):
            self._inbox.put_nowait(event)

    def _events(self, key: str, value: bytes | None) -> Sequence[Event]:
        try:
            events = tuple(events_of(self._keys, key, value))
            for event in events:
                if isinstance(event, AckReceived):
                    _check_layers(event.ack, len(self._job.layer_names))
                elif isinstance(event, PaceTold):
                    named = [layer for pace in event.record.slots for layer, _ in pace.layer_s]
                    _require_layers(event.record.node, named, len(self._job.layer_names))
                elif isinstance(event, UploadReported):
                    layers = [blob.layer for blob in event.record.blobs]
                    _require_layers(event.record.node, layers, len(self._job.layer_names))
            return events
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
                await self._write_generation(record, command.pardons)
                tasks.create_task(self._sweep(record.number, command.drains), name=f"sweep-{record.number}")
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
                await self._write_once(keys.start(record.generation), encode(record))
            case WriteOutcome(record):
                log.info("job.ended", extra={"result": record.result, "reason": record.reason})
                await self._write_once(keys.one("outcome"), encode(record))
                return True
            case ReleaseDrain(record):
                # One that was taken back in this moment stays so: the coordinator hears of it next.
                drain = keys.drain(record.node)
                await self._write([Compare(key=drain, exists=True)], [Put(key=drain, value=encode(record))])
            case ProbeNode(record):
                tasks.create_task(self.ask_after(record), name=f"probe-{record.node}")
            case EvictNode(record, reason):
                await self._evict(record, reason)
            case CommitCheckpoint():
                tasks.create_task(self._commit_checkpoint(command), name=f"checkpoint-{command.version.step}")
        return False

    async def _commit_checkpoint(self, command: CommitCheckpoint) -> None:
        if self._librarian is None:
            return
        if not await self._librarian.commit(command):
            self._inbox.put_nowait(CheckpointFailed(command.version))
            return
        shares = await surely(lambda: self._store.get_prefix(self._keys.uploads), "uploads")
        old = [kv.key for kv in shares.kvs if self._is_old(kv.key, command.version)]
        for first in range(0, len(old), BATCH_MAX):
            await self._write([], [Delete(key=key) for key in old[first : first + BATCH_MAX]])

    def _is_old(self, key: str, version: Version) -> bool:
        try:
            return self._keys.version_of_upload(key) <= version
        except ValueError:
            return True  # of no use to anybody

    async def _write_checkpoints(self, record: CheckpointsRecord) -> None:
        await self._write([], [Put(key=self._keys.one("checkpoints"), value=encode(record))])

    async def _write_generation(self, record: GenerationRecord, pardons: Sequence[NodeId]) -> None:
        """By compare-and-swap on the one before: also two agents that both think they lead make one history."""
        key = self._keys.one("generation")
        before = Compare(key=key, mod_revision=self._generation_revision)
        forgotten = [Delete(key=self._keys.pardon(node)) for node in pardons[:BATCH_MAX]]
        revision = await self._write([before], [Put(key=key, value=encode(record)), *forgotten])
        if revision is None:
            held = await surely(lambda: self._store.get(key), "generation")
            if held is None or held.value != encode(record):
                raise LostLeadershipError
            revision = held.mod_revision  # it was done, and the answer lost
        self._generation_revision = revision

    async def _write_once(self, key: str, value: bytes) -> None:
        if await self._write([Compare(key=key, exists=False)], [Put(key=key, value=value)]) is None:
            held = await surely(lambda: self._store.get(key), "write")
            if held is None or held.value != value:
                raise LostLeadershipError

    async def _sweep(self, number: int, drains: Sequence[DrainRecord]) -> None:
        """Delete what generations left that are over for long, a bounded number of keys at a time, and drains that were
        honoured, unless another was written."""
        for record in drains:
            key = self._keys.drain(record.node)
            await self._write([Compare(key=key, value=encode(record))], [Delete(key=key)])
        while keys := self._litter.due(number):
            if await self._write([], [Delete(key=key) for key in keys]) is None:
                return
            for key in keys:
                self._litter.seen(key, deleted=True)

    async def _write(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int | None:
        """Fenced, and again until there is an answer: all of these writes may be repeated. The store's revision; None
        if one of `compares` does not hold. Raises: LostLeadershipError."""
        assert self._fence is not None
        fence = self._fence
        result = await surely(lambda: self._store.transact([fence, *compares], operations), "write")
        if result.succeeded:
            return result.revision
        held = await surely(lambda: self._store.get(fence.key), "leader")
        if held is None or held.create_revision != fence.create_revision:
            raise LostLeadershipError
        return None

    async def ask_after(self, record: NodeRecord) -> None:
        """Probe a node, tell the coordinator. An agent that took a new lease meanwhile answers for the same workers."""
        for _ in range(_UNASKED_TIMES):
            verdict, workers = await probe(self._peers, record.host, record.port, record.incarnation, self._probe_s)
            if verdict is not Verdict.UNASKED:
                break
            await asyncio.sleep(self._probe_s)
        else:
            return
        known = {ref.worker for ref in record.workers}
        if verdict is Verdict.REFUSED and known.isdisjoint(workers):
            self._inbox.put_nowait(NodeRefused(record.node, record.incarnation))
            return
        answer = None if verdict is Verdict.SILENT else workers
        asked = tuple(ref.worker for ref in record.workers)
        self._inbox.put_nowait(ProbeAnswered(record.node, record.incarnation, answer, asked))

    async def _evict(self, record: NodeRecord, reason: str) -> None:
        """The record goes under the fence; only then its lease, which was this incarnation's alone."""
        key = self._keys.node(record.node)
        held = await surely(lambda: self._store.get(key), "evict")
        try:
            if held is None or decode(NodeRecord, held.value).incarnation != record.incarnation:
                return
        except ProtocolError as error:
            log.error("leader.malformed", extra={"key": key, "error": str(error)})
            return
        same = Compare(key=key, lease=held.lease)
        if await self._write([same], [Delete(key=key)]) is not None:
            await evict(self._store, held, reason)

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()


async def evict(store: Store, held: KeyValue, reason: str) -> None:
    """End the lease that `held` hangs on, and so everything its owner said in the store."""
    log.warning("node.evict", extra={"key": held.key, "reason": reason})
    try:
        await store.revoke(held.lease)
    except StoreError as error:
        log.warning("node.evict_failed", extra={"key": held.key, "error": str(error)})


def _check_layers(ack: NodeAck, layers: int) -> None:
    """Raises: ProtocolError: it names a layer that the job does not have."""
    for inventory in ack.inventory:
        _require_layers(str(inventory.slot), {*inventory.layers, *(n for n, _ in inventory.layer_cost_s)}, layers)
    for held in ack.snapshots:
        _require_layers(ack.node, held.layers, layers)


def _require_layers(who: str, named: Collection[int], layers: int) -> None:
    wrong = sorted(layer for layer in named if not 0 <= layer < layers)
    if wrong:
        raise ProtocolError(f"{who} tells of layer {wrong[0]}; the job has layers 0 to {layers - 1}")


def _nodes_first(kv: KeyValue) -> tuple[bool, str]:
    """Acks are read against node records, so those come first."""
    return "/nodes/" not in kv.key, kv.key

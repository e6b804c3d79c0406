"""What goes wrong in a term ends that term alone."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from holdfast.agent.credentials import Credentials
from holdfast.agent.leading import Leader
from holdfast.agent.peers import Peers
from holdfast.agent.terms import Terms
from holdfast.control.coordinator import Coordinator
from holdfast.errors import StoreError
from holdfast.model.commands import Command
from holdfast.model.events import Event
from holdfast.model.ids import NodeId, SlotId, WorkerId
from holdfast.model.keys import Keys
from holdfast.model.measured import PaceRecord, SlotPace
from holdfast.model.records import (
    AckPhase,
    JobRecord,
    LeaderRecord,
    NodeAck,
    NodeRecord,
    SlotInventory,
    Version,
    WorkerRef,
)
from holdfast.model.wire import encode
from holdfast.ports.store import Compare, KeyValue, Operation, Snapshot, TxnResult
from holdfast.stores.memory import MemoryStore

KEYS = Keys(job="toy")
JOB = JobRecord(
    spec={"name": "toy", "program": {"entry": "toy.py:program"}, "steps": 5, "nodes": {"min": 500, "desired": 500}},
    base="/",
    out="/",
    layer_names=("a",),
    layer_bytes=(8,),
    microbatches=4,
    steps=5,
)
PEERS = Peers(Credentials(b"0123456789abcdef", "toy"))


class Refusing(MemoryStore):
    refuses = False

    async def get_prefix(self, prefix: str) -> Snapshot:
        if self.refuses:
            raise StoreError("no space")
        return await super().get_prefix(prefix)


@pytest.fixture
async def store() -> AsyncIterator[Refusing]:
    made = Refusing()
    yield made
    await made.close()


@asynccontextmanager
async def candidate(store: MemoryStore, name: str) -> AsyncIterator[Terms]:
    lease = await store.grant(60)
    me = LeaderRecord(node=NodeId(name), incarnation=name)
    terms = Terms(lambda: Leader(store, KEYS, JOB, 0.5, PEERS), lambda: (me, lease), lost_s=0.1, away_s=0.1)
    terms.vacant.set()
    running = asyncio.create_task(terms.run())
    try:
        yield terms
    finally:
        assert not running.done(), running
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def become(store: MemoryStore, key: str, is_so: Callable[[KeyValue | None], bool]) -> None:
    async with asyncio.timeout(10):
        async for _ in store.watch(key, 1):
            if is_so(await store.get(key)):
                return


def node(name: str, workers: int) -> NodeRecord:
    refs = tuple(
        WorkerRef(slot=SlotId(NodeId(name), n), worker=WorkerId(f"{name}-{n}"), address="h:1", pid=1)
        for n in range(workers)
    )
    return NodeRecord(
        node=NodeId(name), incarnation=name, host="127.0.0.1", port=1, domain=name, agent_pid=1, workers=refs
    )


async def test_a_bug_in_coordinating_lets_another_lead_and_ends_no_agent(
    store: Refusing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    leader = KEYS.one("leader")

    def broken(*_: object) -> None:
        raise KeyError(99)

    async with candidate(store, "first") as first:
        await become(store, leader, lambda held: held is not None)
        with monkeypatch.context() as patch:
            patch.setattr(Coordinator, "handle", broken)
            await store.put(KEYS.node(NodeId("n")), encode(node("n", 1)))
            await become(store, leader, lambda held: held is None)
        (told,) = [record for record in caplog.records if record.message == "leader.broken"]
        assert told.exc_info is not None
        async with candidate(store, "second"):
            await become(store, leader, lambda held: held is not None and b"second" in held.value)
            assert first.current is None


async def test_a_store_that_refuses_ends_no_agent(store: Refusing) -> None:
    store.refuses = True
    async with candidate(store, "first") as first:
        await become(store, KEYS.one("leader"), lambda held: held is not None)
        await asyncio.sleep(0.3)
        assert first.current is not None
        store.refuses = False


async def test_an_ack_about_layers_that_the_job_lacks_is_not_believed(
    store: Refusing, caplog: pytest.LogCaptureFixture
) -> None:
    inventory = SlotInventory(
        slot=SlotId(NodeId("n"), 0), worker=WorkerId("w"), layers=(0,), version=Version(1, 1), layer_cost_s=((7, 0.1),)
    )
    ack = NodeAck(generation=1, node=NodeId("n"), incarnation="i", phase=AckPhase.STOPPED, inventory=(inventory,))
    await store.put(KEYS.ack(1, NodeId("n")), encode(ack))
    async with candidate(store, "first"):
        await become(store, KEYS.one("leader"), lambda held: held is not None)
        async with asyncio.timeout(5):
            while True:
                told = [record for record in caplog.records if record.message == "leader.malformed"]
                if told:
                    break
                await asyncio.sleep(0.01)
    assert "n/0 tells of layer 7; the job has layers 0 to 0" in told[0].__dict__["error"]


async def test_a_pace_of_layers_that_the_job_lacks_or_of_others_slots_is_not_believed(
    store: Refusing, caplog: pytest.LogCaptureFixture
) -> None:
    pace = SlotPace(slot=SlotId(NodeId("n"), 0), layer_s=((7, 0.1),))
    record = encode(PaceRecord(generation=1, node=NodeId("n"), slots=(pace,)))
    await store.put(KEYS.pace(1, NodeId("n")), record)
    await store.put(KEYS.pace(1, NodeId("m")), record.replace(b'"node":"n","slots"', b'"node":"m","slots"'))
    async with candidate(store, "first"):
        await become(store, KEYS.one("leader"), lambda held: held is not None)
        async with asyncio.timeout(5):
            while True:
                told = [record for record in caplog.records if record.message == "leader.malformed"]
                if len(told) == 2:
                    break
                await asyncio.sleep(0.01)
    errors = " ".join(record.__dict__["error"] for record in told)
    assert "n tells of layer 7; the job has layers 0 to 0" in errors
    assert "m tells of n/0; should be its own" in errors


@pytest.mark.parametrize(("workers", "is_apart"), [(1, False), (40, True)])
async def test_deciding_for_many_slots_leaves_the_agents_loop_free(
    store: Refusing, monkeypatch: pytest.MonkeyPatch, workers: int, is_apart: bool
) -> None:
    decided: list[bool] = []
    handle = Coordinator.handle

    def watched(self: Coordinator, event: Event, now_s: float) -> tuple[Command, ...]:
        decided.append(threading.current_thread() is not threading.main_thread())
        return handle(self, event, now_s)

    monkeypatch.setattr(Coordinator, "handle", watched)
    for name in ("n", "m"):
        await store.put(KEYS.node(NodeId(name)), encode(node(name, workers)))
    async with candidate(store, "first"), asyncio.timeout(5):
        while True:
            if decided:
                break
            await asyncio.sleep(0.01)
    assert decided[0] is is_apart


async def test_a_campaign_that_the_store_refuses_is_told_of_once_a_while_and_not_as_a_bug(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Full(MemoryStore):
        async def transact(
            self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
        ) -> TxnResult:
            raise StoreError("no space")

    store = Full()
    async with candidate(store, "first") as first:
        for _ in range(3):
            assert await first._serve(LeaderRecord(node=NodeId("first"), incarnation="first"), 1) > 1
    await store.close()
    assert {record.message for record in caplog.records} == {"store.refused"}
    assert len(caplog.records) == 1

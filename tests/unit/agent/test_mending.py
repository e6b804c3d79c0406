"""What cannot be read is put right: what stood there before, on the lease it hung on, or nothing if there was none."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from holdfast.agent.mending import Mender
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.model.records import LeaderRecord, StopRecord
from holdfast.model.wire import encode
from holdfast.ports.store import KeyValue
from holdfast.stores.memory import MemoryStore

KEYS = Keys(job="j")
LEADER = encode(LeaderRecord(node=NodeId("node-0"), incarnation="i"))
STOP = encode(StopRecord(reason="enough"))


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    made = MemoryStore()
    yield made
    await made.close()


@asynccontextmanager
async def mending(store: MemoryStore, *, leads: bool = True) -> AsyncIterator[list[bool]]:
    """The verdict on each change so far."""
    mender = Mender(store, KEYS, NodeId("node-0"), lambda: leads)
    verdicts: list[bool] = []

    async def follow() -> None:
        async for changes in store.watch(KEYS.prefix, 1):
            for change in changes:
                verdicts.append(mender.see(change.kv.key, change.kv if change.kind == "put" else None))

    tasks = [asyncio.create_task(follow()), asyncio.create_task(mender.run())]
    try:
        yield verdicts
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def become(store: MemoryStore, key: str, is_so: Callable[[KeyValue | None], bool]) -> KeyValue | None:
    async with asyncio.timeout(10):
        async for _ in store.watch(key, 1):
            if is_so(held := await store.get(key)):
                return held
    raise AssertionError("a watch has no end")


async def test_what_stood_there_comes_back_on_its_lease(store: MemoryStore) -> None:
    key, lease = KEYS.one("leader"), await store.grant(60)
    async with mending(store) as verdicts:
        await store.put(key, LEADER, lease)
        await store.put(key, b"garbage")
        held = await become(store, key, lambda held: held is not None and held.value == LEADER)
        assert held is not None
        assert held.lease == lease
        assert held.version == 3, "it was never deleted: what is fenced by its creation holds"
    assert verdicts[:2] == [True, False]


async def test_what_hung_on_a_lease_that_is_gone_goes_too(store: MemoryStore) -> None:
    key, lease = KEYS.one("leader"), await store.grant(60)
    await store.put(key, LEADER, lease)
    await store.put(key, b"garbage")
    await store.revoke(lease)
    async with mending(store):
        await become(store, key, lambda held: held is None)


async def test_garbage_where_nothing_good_ever_stood_is_deleted(store: MemoryStore) -> None:
    key = KEYS.one("outcome")
    async with mending(store):
        await store.put(key, b"garbage")
        await become(store, key, lambda held: held is None)


async def test_garbage_upon_garbage_is_deleted_too(store: MemoryStore) -> None:
    """Nobody would ever know better, and a job whose outcome cannot be read has no end."""
    await store.put(KEYS.one("outcome"), b"garbage")
    await store.put(KEYS.one("outcome"), b"more of it")
    async with mending(store):
        await become(store, KEYS.one("outcome"), lambda held: held is None)


async def test_who_does_not_know_what_stood_there_leaves_it_to_who_does(store: MemoryStore) -> None:
    key = KEYS.one("stop")
    await store.put(key, STOP)
    await store.put(key, b"garbage")
    held = await store.get(key)
    ignorant = Mender(store, KEYS, NodeId("node-1"), lambda: True)
    assert not ignorant.see(key, held)
    running = asyncio.create_task(ignorant.run())
    await asyncio.sleep(0.1)  # it would have written within this
    assert await store.get(key) == held
    running.cancel()
    async with mending(store, leads=False):
        await become(store, key, lambda held: held is not None and held.value == STOP)


async def test_what_was_written_meanwhile_stands(store: MemoryStore) -> None:
    key = KEYS.one("stop")
    mender = Mender(store, KEYS, NodeId("node-0"), lambda: True)
    await store.put(key, b"garbage")
    mender.see(key, await store.get(key))
    await store.put(key, STOP)
    running = asyncio.create_task(mender.run())
    await asyncio.sleep(0.1)  # it would have written within this
    held = await store.get(key)
    assert held is not None
    assert held.value == STOP
    running.cancel()

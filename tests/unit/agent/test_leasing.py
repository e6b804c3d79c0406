"""A lease is taken anew once for each loss, and a store that refuses is borne until the orphan time is over."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from holdfast.agent.leasing import NodeLease, boot_time_s
from holdfast.errors import StoreError
from holdfast.stores.memory import MemoryStore

TTL_S = 0.6


class Refusing(MemoryStore):
    """As etcd with another password."""

    refuses = False

    async def keep_alive(self, lease: int) -> float:
        if self.refuses:
            raise StoreError("authentication failed; give the right user and password")
        return await super().keep_alive(lease)


class Kept:
    """A lease that is kept, and what its owner is told. `anew` hears while it runs that the old record is gone, as from
    a watch."""

    def __init__(self, store: Refusing, orphan_s: float) -> None:
        self.lapses = 0
        self.lapsed = asyncio.Event()
        self.lease = NodeLease(store, TTL_S, orphan_s, lambda _: None, self.lapse)
        self.taken = 0
        self.again = asyncio.Event()

    def lapse(self, _: str) -> None:
        self.lapses += 1
        self.lapsed.set()

    async def take(self) -> None:
        self.lease.use(await self.lease.take(), boot_time_s())

    async def anew(self) -> None:
        self.taken += 1
        await self.take()
        self.lease.lose()
        self.again.set()


@asynccontextmanager
async def keeping(orphan_s: float = 60.0) -> AsyncIterator[tuple[Refusing, Kept]]:
    store = Refusing()
    kept = Kept(store, orphan_s)
    await kept.take()
    tasks = [asyncio.create_task(kept.lease.keep(kept.anew)), asyncio.create_task(kept.lease.watch())]
    try:
        yield store, kept
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await store.close()
        assert all(isinstance(error, asyncio.CancelledError) for error in ended), ended


@pytest.mark.parametrize("deleted", [False, True])
async def test_news_of_the_old_record_while_a_lease_is_taken_anew_does_not_end_the_new_one(deleted: bool) -> None:
    async with keeping() as (store, kept):
        if deleted:
            kept.lease.lose()
        else:
            await store.revoke(kept.lease.id)
        await asyncio.wait_for(kept.again.wait(), 5)
        await asyncio.sleep(TTL_S)  # it would have taken hundreds within this
        assert kept.taken == 1


async def test_a_store_that_refuses_is_borne_and_told_of_once_a_while(caplog: pytest.LogCaptureFixture) -> None:
    async with keeping(orphan_s=0.5) as (store, kept):
        store.refuses = True
        await asyncio.wait_for(kept.lapsed.wait(), 10)
        await asyncio.sleep(TTL_S)
        assert kept.lapses == 1
        told = [record for record in caplog.records if record.message == "store.refused"]
        assert [record.levelno for record in told] == [logging.ERROR]
        assert "give the right user" in told[0].__dict__["error"]


async def test_the_first_lease_is_not_waited_for_where_the_store_refuses() -> None:
    class Shut(MemoryStore):
        async def grant(self, ttl_s: float) -> int:
            raise StoreError("permission denied")

    store = Shut()
    lease = NodeLease(store, TTL_S, 60, lambda _: None, lambda _: None)
    with pytest.raises(StoreError, match="permission denied"):
        await lease.take()
    await store.close()

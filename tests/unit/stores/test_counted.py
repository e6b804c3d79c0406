"""A counted store is the store itself, and each call that it does not answer is counted by name."""

from collections import Counter

import pytest

from holdfast.errors import LeaseExpiredError, StoreUnavailableError
from holdfast.ports.store import Put
from holdfast.stores.counted import CountedStore
from holdfast.stores.memory import MemoryStore

pytestmark = pytest.mark.asyncio


async def test_every_call_reaches_the_store_and_no_answer_is_counted() -> None:
    failed: Counter[str] = Counter()

    def count(call: str) -> None:
        failed[call] += 1

    store = CountedStore(MemoryStore(), count)
    lease = await store.grant(30.0)
    assert await store.keep_alive(lease) > 0
    revision = await store.put("a", b"1", lease)
    assert (await store.transact([], [Put(key="b", value=b"2")])).revision == revision + 1
    held = await store.get("a")
    assert held is not None
    assert (held.value, held.lease) == (b"1", lease)
    assert [kv.key for kv in (await store.get_prefix("")).kvs] == ["a", "b"]
    assert (await anext(store.watch("", revision)))[0].kv.key == "a"
    assert await store.delete("b")
    await store.revoke(lease)
    assert await store.get("a") is None
    with pytest.raises(LeaseExpiredError):  # an answer
        await store.keep_alive(lease)
    assert not failed
    await store.close()
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            await store.put("a", b"1")
    with pytest.raises(StoreUnavailableError):
        await store.keep_alive(lease)
    assert failed == {"put": 2, "keep_alive": 1}

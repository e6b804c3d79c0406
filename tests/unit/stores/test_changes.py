"""Following a prefix: what stands at once, then what changes; nothing is missed where history was dropped."""

import asyncio

from holdfast.stores.changes import changes_of
from holdfast.stores.keyspace import Keyspace
from holdfast.stores.memory import MemoryStore


async def test_that_nothing_stands_is_told_as_well() -> None:
    store = MemoryStore()
    told = changes_of(store, "a/")
    assert await anext(told) == ()
    await store.put("b/x", b"of others")
    await store.put("a/x", b"1")
    assert await anext(told) == (("a/x", b"1"),)
    await store.close()


async def test_what_stands_comes_at_once_and_oldest_first() -> None:
    store = MemoryStore()
    for key in ("a/y", "a/x", "a/z"):
        await store.put(key, b"1")
    await store.put("a/y", b"2")
    told = changes_of(store, "a/")
    assert await anext(told) == (("a/x", b"1"), ("a/z", b"1"), ("a/y", b"2"))
    await store.delete("a/x")
    assert await anext(told) == (("a/x", None),)
    await store.close()


async def test_where_history_was_dropped_what_is_gone_is_told_with_what_stands() -> None:
    keyspace = Keyspace()
    store = MemoryStore(keyspace)
    await store.put("a/x", b"1")
    told = changes_of(store, "a/")
    assert await anext(told) == (("a/x", b"1"),)
    await store.delete("a/x")
    await store.put("a/y", b"2")
    keyspace.compact(keyspace.revision)
    assert await asyncio.wait_for(anext(told), 5) == (("a/x", None), ("a/y", b"2"))
    await store.close()

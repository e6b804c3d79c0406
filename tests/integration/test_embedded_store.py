"""The embedded store when connections break, servers stop and strangers call: nothing lost, nothing twice."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import pytest
import pytest_asyncio

from harness.server_process import free_ports
from harness.stores.link import Link
from holdfast.errors import CompactedError, LeaseExpiredError, StoreError, StoreUnavailableError
from holdfast.ports.store import Compare, Put, WatchEvent
from holdfast.stores import memory
from holdfast.stores.embedded import EmbeddedServer, EmbeddedStore
from holdfast.stores.keyspace import Keyspace
from holdfast.stores.memory import MemoryStore

pytestmark = pytest.mark.asyncio

WITHIN_S = 20.0


@pytest_asyncio.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest_asyncio.fixture
async def server(stack: AsyncExitStack) -> EmbeddedServer:
    server = EmbeddedServer(port=free_ports(1)[0])  # which nobody takes while it is down
    await server.start()
    stack.push_async_callback(server.close)
    return server


@pytest_asyncio.fixture
async def store(stack: AsyncExitStack, server: EmbeddedServer) -> EmbeddedStore:
    return client_of(stack, server.port)


@pytest_asyncio.fixture
async def link(stack: AsyncExitStack, server: EmbeddedServer) -> Link:
    link = Link(server.port)
    stack.push_async_callback(link.close)
    return link


def client_of(stack: AsyncExitStack, port: int, **settings: float) -> EmbeddedStore:
    store = EmbeddedStore("127.0.0.1", port, **settings)  # type: ignore[arg-type]
    stack.push_async_callback(store.close)
    return store


async def next_of(watch: AsyncIterator[tuple[WatchEvent, ...]]) -> tuple[WatchEvent, ...]:
    return await asyncio.wait_for(anext(watch), WITHIN_S)


async def increment(store: EmbeddedStore, key: str) -> None:
    """By compare-and-swap, as often as it takes."""
    while True:
        kv = await store.get(key)
        seen = Compare(key=key, mod_revision=kv.mod_revision if kv else 0)
        value = str(int(kv.value) + 1 if kv else 1).encode()
        if (await store.transact([seen], [Put(key=key, value=value)])).succeeded:
            return


async def test_a_thousand_increments_by_ten_clients_lose_none(stack: AsyncExitStack, server: EmbeddedServer) -> None:
    async def work(store: EmbeddedStore) -> None:
        for _ in range(100):
            await increment(store, "n")

    await asyncio.gather(*(work(client_of(stack, server.port)) for _ in range(10)))
    kv = await client_of(stack, server.port).get("n")
    assert kv is not None
    assert (kv.value, kv.version) == (b"1000", 1000)


async def test_increments_are_neither_lost_nor_repeated_while_connections_break(
    stack: AsyncExitStack, server: EmbeddedServer, link: Link
) -> None:
    port = await link.start()
    workers = [client_of(stack, port, timeout_s=WITHIN_S) for _ in range(4)]

    async def work(store: EmbeddedStore) -> None:
        for _ in range(50):
            await increment(store, "n")

    cuts = 0

    async def disturb() -> None:
        nonlocal cuts
        while True:
            link.lose_replies()
            await link.lost_reply()
            link.heal()
            link.cut()
            cuts += 1
            await asyncio.sleep(0.02)

    disturbing = asyncio.create_task(disturb())
    await asyncio.gather(*map(work, workers))
    disturbing.cancel()
    kv = await client_of(stack, server.port).get("n")
    assert kv is not None
    assert (kv.value, kv.version) == (b"200", 200)
    assert cuts > 1


async def test_a_write_whose_reply_was_lost_is_applied_once(
    stack: AsyncExitStack, store: EmbeddedStore, link: Link
) -> None:
    far = client_of(stack, await link.start())
    await far.get("x")
    writes: list[Callable[[], Awaitable[object]]] = [
        lambda: far.put("a", b"1"),
        lambda: far.transact([Compare(key="b", exists=False)], [Put(key="b", value=b"1")]),
        lambda: far.delete("x"),
        lambda: far.grant(60),
    ]
    start = await store.put("x", b"")
    answers = []
    for write in writes:
        link.lose_replies()
        writing = asyncio.ensure_future(write())
        await link.lost_reply()
        link.heal()
        link.cut()
        answers.append(await writing)
    put, transact, deleted, lease = answers
    assert (put, deleted, lease) == (start + 1, True, 1)
    assert getattr(transact, "succeeded", None) is True
    assert (await store.get_prefix("")).revision == start + 3


async def test_a_watch_misses_and_repeats_nothing_while_connections_break(
    stack: AsyncExitStack, store: EmbeddedStore, link: Link
) -> None:
    far = client_of(stack, await link.start())
    start = await store.put("a", b"")
    watch = far.watch("a", start + 1)

    async def write() -> list[int]:
        written = []
        for number in range(300):
            written.append(await store.put("a", str(number).encode()))
            if number % 20 == 0:
                link.cut()
                await asyncio.sleep(0.005)
        return written

    writing = asyncio.create_task(write())
    seen = [(await next_of(watch))[0].revision for _ in range(300)]
    assert seen == await writing
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(watch), 0.05)


async def test_a_quiet_watch_is_not_overtaken_by_compaction(stack: AsyncExitStack) -> None:
    server = EmbeddedServer(keyspace=Keyspace(history_revisions_max=10))
    await server.start()
    stack.push_async_callback(server.close)
    store = client_of(stack, server.port)
    watch = store.watch("quiet", await store.put("busy", b"") + 1)
    waiting = asyncio.create_task(next_of(watch))
    for _ in range(100):
        await store.put("busy", b"")
    await store.put("quiet", b"here")
    assert (await waiting)[0].kv.value == b"here"


async def test_a_watch_cut_off_for_longer_than_history_says_so(stack: AsyncExitStack) -> None:
    server = EmbeddedServer(keyspace=Keyspace(history_revisions_max=10))
    await server.start()
    stack.push_async_callback(server.close)
    store = client_of(stack, server.port)
    watch = store.watch("a", await store.put("a", b"") + 1)
    for _ in range(20):
        await store.put("a", b"")
    with pytest.raises(CompactedError, match="read prefix 'a' again"):
        await next_of(watch)


async def test_a_server_closed_and_started_again_is_only_a_pause(server: EmbeddedServer, store: EmbeddedStore) -> None:
    lease = await store.grant(60)
    start = await store.put("a", b"1", lease)
    watch = store.watch("a", start + 1)
    waiting = asyncio.create_task(next_of(watch))
    await server.close()
    writing = asyncio.create_task(store.put("a", b"2", lease))
    await server.start()
    assert await writing == start + 1
    assert (await waiting)[0].kv.value == b"2"
    assert await store.keep_alive(lease) == 60


async def test_leases_do_not_run_out_while_the_server_is_away(server: EmbeddedServer, store: EmbeddedStore) -> None:
    lease = await store.grant(3.0)
    await server.close()
    await asyncio.sleep(3.2)
    await server.start()
    assert await store.keep_alive(lease) == 3.0


async def test_leases_do_not_run_out_while_the_process_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_STALL_S", 0.1)
    store = MemoryStore()
    lease = await store.grant(0.2)
    time.sleep(0.5)  # noqa: ASYNC251 - blocking the loop is the point
    assert await store.keep_alive(lease) == 0.2
    watch = store.watch("a", await store.put("a", b"", lease) + 1)
    assert (await next_of(watch))[0].kind == "delete"
    with pytest.raises(LeaseExpiredError):
        await store.keep_alive(lease)
    await store.close()


async def test_a_client_may_be_there_before_its_server(stack: AsyncExitStack, server: EmbeddedServer) -> None:
    await server.close()
    store = client_of(stack, server.port)
    reading = asyncio.create_task(store.get_prefix(""))
    await asyncio.sleep(0.05)
    await server.start()
    assert (await reading).kvs == ()


async def test_calls_and_watches_say_so_when_the_server_stays_away(
    stack: AsyncExitStack, server: EmbeddedServer, store: EmbeddedStore
) -> None:
    hasty = client_of(stack, server.port, timeout_s=2.0, watch_deadline_s=0.3)
    watch = hasty.watch("a", await store.put("a", b"1"))
    await server.close()
    with pytest.raises(StoreUnavailableError, match=r"no answer to 'put' within 2\.0 s .*Connect"):
        await hasty.put("a", b"2")
    with pytest.raises(StoreUnavailableError, match=r"'poll' within 0\.3 s"):
        await next_of(watch)
    await server.start()
    async with asyncio.timeout(WITHIN_S):
        while True:
            with suppress(StoreUnavailableError):
                assert (await anext(watch))[0].kv.value == b"1"
                return


async def test_a_watch_without_deadline_outlasts_the_timeout(
    stack: AsyncExitStack, server: EmbeddedServer, store: EmbeddedStore
) -> None:
    watch = client_of(stack, server.port, timeout_s=0.1).watch("a", await store.put("a", b"1"))
    waiting = asyncio.create_task(next_of(watch))
    await server.close()
    await asyncio.sleep(0.3)
    await server.start()
    assert (await waiting)[0].kv.value == b"1"


async def test_a_connection_gone_silent_is_replaced(stack: AsyncExitStack, store: EmbeddedStore, link: Link) -> None:
    far = client_of(stack, await link.start(), timeout_s=3.0)
    await far.get("a")
    link.lose_replies()
    with pytest.raises(StoreUnavailableError):
        await far.get("a")
    link.heal()
    await store.put("a", b"1")
    kv = await far.get("a")
    assert kv is not None


async def test_another_store_at_the_same_address_is_not_taken_for_the_first(
    stack: AsyncExitStack, server: EmbeddedServer, store: EmbeddedStore
) -> None:
    await store.put("a", b"1")
    watch = store.watch("a", 1)
    await server.close()
    other = EmbeddedServer(port=server.port)
    await other.start()
    stack.push_async_callback(other.close)
    for refused in (store.get("a"), store.put("a", b"2"), next_of(watch)):
        with pytest.raises(StoreError, match="started anew"):
            await refused
    assert (await client_of(stack, other.port).get_prefix("")).kvs == ()


async def test_only_those_who_know_the_secret_are_served(stack: AsyncExitStack) -> None:
    server = EmbeddedServer(secret=b"right")
    await server.start()
    stack.push_async_callback(server.close)
    for secret in (b"wrong", b""):
        stranger = EmbeddedStore(server.host, server.port, secret=secret)
        stack.push_async_callback(stranger.close)
        with pytest.raises(StoreError, match="refused the client's secret"):
            await stranger.get("a")
    member = EmbeddedStore(server.host, server.port, secret=b"right")
    stack.push_async_callback(member.close)
    assert await member.get("a") is None


async def test_what_is_too_large_is_refused_before_it_is_sent(store: EmbeddedStore) -> None:
    with pytest.raises(ValueError, match="exceeds the 2097152 allowed"):
        await store.put("a", b"x" * (2 << 20))
    assert await store.get("a") is None


async def test_a_prefix_too_large_for_one_reply_is_refused(store: EmbeddedStore) -> None:
    for number in range(13):
        await store.put(f"a/{number:02}", b"x" * (1 << 20))
    with pytest.raises(ValueError, match="read a narrower prefix"):
        await store.get_prefix("a/")
    assert len((await store.get_prefix("a/0")).kvs) == 10
    watch = store.watch("a/", 1)
    assert [len(await next_of(watch)) for _ in range(13)] == [1] * 13


async def test_many_calls_are_in_flight_at_once_and_keep_their_order(store: EmbeddedStore) -> None:
    revisions = await asyncio.gather(*(store.put("a", str(number).encode()) for number in range(500)))
    assert revisions == sorted(revisions)
    kv = await store.get("a")
    assert kv is not None
    assert kv.value == b"499"


async def test_a_call_cancelled_does_not_disturb_the_others(store: EmbeddedStore) -> None:
    await store.get("a")  # Connected, so that what is called is also sent.
    for _ in range(50):
        calls = [asyncio.create_task(store.put("a", b"")) for _ in range(3)]
        await asyncio.sleep(0)
        calls[1].cancel()
        revisions = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(revisions[0], int)
        assert isinstance(revisions[1], asyncio.CancelledError)
        assert revisions[2] == revisions[0] + 2


async def test_a_port_that_is_taken_is_reported_and_can_be_tried_again(server: EmbeddedServer) -> None:
    second = EmbeddedServer(port=server.port)
    with pytest.raises(OSError, match="address already in use"):
        await second.start()
    await server.close()
    await second.start()
    await second.close()


@pytest.mark.parametrize("settings", [{"timeout_s": 0.0}, {"watch_deadline_s": -1.0}])
async def test_times_must_be_positive(stack: AsyncExitStack, settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="give a positive number of seconds"):
        client_of(stack, 1, **settings)

"""The etcd store on one real server: killed, away, compacted behind its back, shared with others."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress

import pytest
import pytest_asyncio

from harness.etcd.operating import compact_history, put_raw, raw_keys
from harness.etcd.server import EtcdServer, running_server
from harness.server_process import free_ports
from holdfast.errors import CompactedError, LeaseExpiredError, StoreUnavailableError
from holdfast.ports.store import Compare, Delete, Put, Store, WatchEvent
from holdfast.stores.etcd.store import EtcdStore

pytestmark = pytest.mark.asyncio

WITHIN_S = 30.0


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with running_server(tmp_path_factory.mktemp("etcd")) as server:
        yield server


@pytest.fixture
def server(shared_server: EtcdServer) -> EtcdServer:
    """Back on its feet, whatever a test before that failed did to it."""
    shared_server.revive()
    return shared_server


@asynccontextmanager
async def opened(server: EtcdServer, prefix: str, *, timeout_s: float = 10.0) -> AsyncIterator[Store]:
    store = EtcdStore([server.endpoint], prefix=prefix, timeout_s=timeout_s)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """Each test has its own keys."""
    return f"{request.node.name}/"


@pytest_asyncio.fixture
async def store(server: EtcdServer, prefix: str) -> AsyncIterator[Store]:
    async with opened(server, prefix) as store:
        yield store


async def next_of(watch: AsyncIterator[tuple[WatchEvent, ...]]) -> tuple[WatchEvent, ...]:
    return await asyncio.wait_for(anext(watch), WITHIN_S)


async def restart(server: EtcdServer) -> None:
    server.start()
    await asyncio.to_thread(server.wait_healthy)


async def test_a_watch_goes_on_after_kill_and_restart_with_nothing_lost_or_repeated(
    server: EtcdServer, store: Store, prefix: str
) -> None:
    start = (await store.get_prefix("")).revision + 1
    watch = store.watch("", start)
    written = [await store.put(f"k{number}", b"before") for number in range(10)]
    seen = [(await next_of(watch))[0].revision for _ in range(5)]
    waiting = asyncio.create_task(next_of(watch))
    server.kill()
    await restart(server)
    async with opened(server, prefix) as other:
        written += [await other.put(f"k{number}", b"after") for number in range(10)]
    seen.append((await waiting)[0].revision)
    seen += [(await next_of(watch))[0].revision for _ in range(14)]
    assert seen == written
    # Nothing is left over.
    written.append(await store.put("end", b""))
    assert (await next_of(watch))[0].revision == written[-1]


async def test_a_watch_waits_for_a_server_that_is_away_for_long(server: EtcdServer, prefix: str) -> None:
    async with opened(server, prefix, timeout_s=0.5) as hasty, opened(server, prefix) as store:
        watch = hasty.watch("", await store.put("a", b"") + 1)
        waiting = asyncio.create_task(next_of(watch))
        server.kill()
        for _ in range(4):
            with pytest.raises(StoreUnavailableError):
                await hasty.get("a")
        assert not waiting.done()
        await restart(server)
        assert (await store.get("a")) is not None
    with pytest.raises(StoreUnavailableError):
        await waiting


async def test_history_compacted_while_a_watch_was_cut_off_is_an_error_not_a_gap(
    server: EtcdServer, prefix: str, store: Store
) -> None:
    watch = store.watch("", await store.put("a", b"1"))
    assert (await next_of(watch))[0].kv.value == b"1"
    waiting = asyncio.create_task(next_of(watch))
    server.kill()
    # Back, but where the watch does not find it.
    own_port = server.client_port
    (server.client_port,) = free_ports(1)
    await restart(server)
    async with opened(server, prefix) as other:
        revisions = [await other.put("a", value) for value in (b"2", b"3", b"4")]
    await compact_history([server.endpoint], revisions[1])
    server.kill()
    server.client_port = own_port
    await restart(server)
    with pytest.raises(CompactedError, match="watch from the snapshot's revision"):
        await waiting
    snapshot = await store.get_prefix("")
    assert [kv.value for kv in snapshot.kvs] == [b"4"]
    again = store.watch("", snapshot.revision + 1)
    revision = await store.put("a", b"5")
    assert (await next_of(again))[0].revision == revision


async def test_a_store_that_is_away_is_said_to_be_within_the_deadline(prefix: str) -> None:
    (port,) = free_ports(1)
    store = EtcdStore([("127.0.0.1", port)], prefix=prefix, timeout_s=0.5)
    asks = (
        lambda: store.get("a"),
        lambda: store.get_prefix(""),
        lambda: store.put("a", b""),
        lambda: store.delete("a"),
        lambda: store.transact([], [Delete(key="a")]),
        lambda: store.grant(5),
        lambda: store.keep_alive(1),
        lambda: store.revoke(1),
    )
    for ask in asks:
        with pytest.raises(StoreUnavailableError, match=rf"127\.0\.0\.1:{port}.*within 0\.5 s"):
            await ask()
    await store.close()


async def test_a_server_that_freezes_is_unavailable_and_then_serves_on(server: EtcdServer, prefix: str) -> None:
    async with opened(server, prefix, timeout_s=0.5) as hasty, opened(server, prefix) as store:
        watch = hasty.watch("", await store.put("a", b"0") + 1)
        waiting = asyncio.create_task(next_of(watch))
        await asyncio.sleep(0)
        server.freeze()
        try:
            with pytest.raises(StoreUnavailableError):
                await hasty.get("a")
        finally:
            server.thaw()
        await asyncio.to_thread(server.wait_healthy)
        assert await seen_again(hasty, "a")
        revision = await store.put("a", b"1")
        assert (await waiting)[0].revision == revision


async def seen_again(store: Store, key: str) -> bool:
    """Half a second may pass again before a busy machine's server answers."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            with suppress(StoreUnavailableError):
                return await store.get(key) is not None


async def test_a_write_waits_for_a_server_that_comes_up_in_time(server: EtcdServer, prefix: str) -> None:
    server.kill()
    async with opened(server, prefix, timeout_s=WITHIN_S) as store:
        writing = asyncio.create_task(store.put("a", b"1"))
        await restart(server)
        revision = await writing
        kv = await store.get("a")
        assert kv is not None
        assert (kv.mod_revision, kv.version) == (revision, 1)


async def test_prefixes_do_not_see_each_other(server: EtcdServer, prefix: str) -> None:
    async with opened(server, f"{prefix}a/") as a, opened(server, f"{prefix}b/") as b:
        start = (await a.get_prefix("")).revision + 1
        watch = a.watch("", start)
        await b.put("jobs/x", b"b's")
        await a.put("jobs/x", b"a's")
        assert [(kv.key, kv.value) for kv in (await a.get_prefix("")).kvs] == [("jobs/x", b"a's")]
        assert [(event.kv.key, event.kv.value) for event in await next_of(watch)] == [("jobs/x", b"a's")]
        assert (await a.transact([Compare(key="jobs/x", value=b"a's")], [Delete(key="jobs/x")])).succeeded
        assert [(event.kind, event.kv.key) for event in await next_of(watch)] == [("delete", "jobs/x")]
        kv = await b.get("jobs/x")
        assert kv is not None
        assert kv.value == b"b's"
    assert (await raw_keys(server.endpoint))[f"{prefix}b/jobs/x".encode()] == b"b's"


async def test_without_a_prefix_the_whole_store_is_ours(server: EtcdServer, prefix: str) -> None:
    async with opened(server, "") as store:
        await store.put(f"{prefix}a", b"")
        assert f"{prefix}a" in [kv.key for kv in (await store.get_prefix("")).kvs]
        watch = store.watch("", (await store.get_prefix("")).revision + 1)
        revision = await store.put(f"{prefix}b", b"")
        assert (await next_of(watch))[0].revision == revision


async def test_keys_of_strangers_that_are_no_text_stay_themselves(
    server: EtcdServer, store: Store, prefix: str
) -> None:
    await put_raw(server.endpoint, prefix.encode() + b"\xff\x00\xc3", b"theirs")
    (kv,) = (await store.get_prefix("")).kvs
    assert await store.get(kv.key) == kv
    assert await store.delete(kv.key)
    assert (await store.get_prefix("")).kvs == ()


async def test_a_revision_of_many_megabytes_comes_whole(store: Store) -> None:
    watch = store.watch("", (await store.get_prefix("")).revision + 1)
    values = [bytes([number]) * 400_000 for number in range(3)]
    revisions = []
    for _ in range(8):
        puts = [Put(key=f"k{number}", value=value) for number, value in enumerate(values)]
        revisions.append((await store.transact([], puts)).revision)
    for revision in revisions:
        batch = await next_of(watch)
        assert [event.revision for event in batch] == [revision] * 3
        assert [event.kv.value for event in batch] == values
    # All at once now: etcd sends several revisions in one reply, and that in parts.
    late = store.watch("", revisions[0])
    assert [(await next_of(late))[0].revision for _ in revisions] == revisions


async def test_what_etcd_cannot_take_is_a_wrong_argument(store: Store) -> None:
    with pytest.raises(ValueError, match="too large"):
        await store.put("a", b"x" * 2_000_000)
    with pytest.raises(ValueError, match="too many operations"):
        await store.transact([], [Put(key=f"k{number}", value=b"") for number in range(200)])
    with pytest.raises(ValueError, match="TTL"):
        await store.grant(1e12)
    assert (await store.get_prefix("")).kvs == ()


@pytest.mark.parametrize("ttl_s", [2.2, 4.5, 6.0])
async def test_a_lease_lives_at_least_as_long_as_asked(store: Store, ttl_s: float) -> None:
    lease = await store.grant(ttl_s)
    remaining_s = await store.keep_alive(lease)
    assert ttl_s <= remaining_s < ttl_s + 1
    await store.revoke(lease)


async def test_whatever_names_a_dead_lease_says_so(store: Store) -> None:
    lease = await store.grant(4)
    watch = store.watch("", await store.put("a", b"", lease) + 1)
    assert [event.kind for event in await next_of(watch)] == ["delete"]
    for late in (
        store.put("a", b"", lease),
        store.keep_alive(lease),
        store.transact([], [Put(key="b", value=b""), Put(key="a", value=b"", lease=lease)]),
        store.put("a", b"", 12345),
        store.keep_alive(12345),
    ):
        with pytest.raises(LeaseExpiredError):
            await late
    await store.revoke(lease)
    assert (await store.get_prefix("")).kvs == ()


async def test_a_lease_survives_the_restart_of_the_server(server: EtcdServer, store: Store) -> None:
    lease = await store.grant(5)
    await store.put("a", b"", lease)
    server.kill()
    await restart(server)
    assert await store.keep_alive(lease) == 5
    kv = await store.get("a")
    assert kv is not None
    assert kv.lease == lease
    await store.revoke(lease)


async def test_a_watch_that_nobody_holds_any_more_ends_at_the_server(server: EtcdServer, store: Store) -> None:
    watchers = "etcd_debugging_mvcc_watcher_total"
    before = server.metric(watchers)
    watch = store.watch("", await store.put("a", b"") + 1)
    waiting = asyncio.create_task(next_of(watch))
    await until(lambda: server.metric(watchers) == before + 1)
    waiting.cancel()
    await asyncio.wait([waiting])
    del watch, waiting
    gc.collect()
    await until(lambda: server.metric(watchers) == before)


async def test_a_thousand_cancelled_waits_cost_no_stream_each(server: EtcdServer, store: Store) -> None:
    watchers = "etcd_debugging_mvcc_watcher_total"
    before = server.metric(watchers)
    watch = store.watch("", await store.put("a", b"") + 1)
    for _ in range(50):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(watch), 0.001)
    await until(lambda: server.metric(watchers) == before + 1)
    started = server.metric("etcd_network_client_grpc_received_bytes_total")
    for _ in range(1_000):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(watch), 0.0001)
    assert server.metric("etcd_network_client_grpc_received_bytes_total") == started
    revision = await store.put("a", b"")
    assert (await next_of(watch))[0].revision == revision


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while True:
            if await asyncio.to_thread(condition):
                return
            await asyncio.sleep(0.02)

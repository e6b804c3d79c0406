"""What every store keeps. A new adapter adds an entry to `worlds.OPENERS` and must pass unchanged.

The tests share no keys (see `World.prefix`) and compare revisions only with each other, so that one real
etcd can serve them all, one after the other.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from harness.stores.worlds import OPENERS, Opener, World
from holdfast.errors import CompactedError, LeaseExpiredError, StoreUnavailableError
from holdfast.ports.store import Compare, Delete, KeyValue, Operation, Put, Store, WatchEvent

pytestmark = pytest.mark.asyncio

WITHIN_S = 20.0
# etcd's shortest is about this.
TTL_S = 3.0


# Of a module, so that all tests of one store run together, on the same servers.
@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.slow] * (name == "etcd-cluster")) for name in OPENERS]
)
def opener(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opener]:
    with OPENERS[request.param](tmp_path_factory.mktemp(request.param)) as opener:
        yield opener


@pytest_asyncio.fixture
async def world(opener: Opener) -> AsyncIterator[World]:
    async with opener(f"test/{uuid.uuid4().hex}/") as world:
        yield world


@pytest.fixture
def store(world: World) -> Store:
    return world.store


@pytest.fixture
def a(world: World) -> str:
    return world.prefix + "a"


@pytest.fixture
def b(world: World) -> str:
    return world.prefix + "b"


async def next_of(watch: AsyncIterator[tuple[WatchEvent, ...]]) -> tuple[WatchEvent, ...]:
    return await asyncio.wait_for(anext(watch), WITHIN_S)


async def test_a_put_can_be_read_with_its_revisions(store: Store, a: str) -> None:
    created = await store.put(a, b"\x00\xff")
    modified = await store.put(a, b"")
    expected = KeyValue(key=a, value=b"", create_revision=created, mod_revision=modified, version=2, lease=0)
    assert await store.get(a) == expected


async def test_an_absent_key_reads_as_none(store: Store, a: str) -> None:
    assert await store.get(a) is None


async def test_each_write_takes_the_next_revision(store: Store, a: str, b: str) -> None:
    first = await store.put(a, b"")
    second = await store.put(b, b"")
    result = await store.transact([], [Put(key=a, value=b"x"), Delete(key=b)])
    assert (second, result.revision) == (first + 1, first + 2)


async def test_what_writes_nothing_takes_no_revision(store: Store, a: str, b: str) -> None:
    revision = await store.put(a, b"")
    assert not await store.delete(b)
    refused = await store.transact([Compare(key=a, exists=False)], [Put(key=a, value=b"x")])
    assert (refused.succeeded, refused.revision) == (False, revision)
    assert (await store.transact([], [Delete(key=b)])).revision == revision
    assert await store.put(a, b"") == revision + 1


async def test_a_key_deleted_and_put_again_is_new(store: Store, a: str) -> None:
    await store.put(a, b"1")
    assert await store.delete(a)
    assert not await store.delete(a)
    revision = await store.put(a, b"2")
    kv = await store.get(a)
    assert kv is not None
    assert (kv.create_revision, kv.version) == (revision, 1)


async def test_a_prefix_reads_sorted_and_without_its_neighbours(store: Store, world: World) -> None:
    for name in ("n/2", "n/10", "n", "n0", "m/1", "n/é"):
        await store.put(world.prefix + name, name.encode())
    snapshot = await store.get_prefix(world.prefix + "n/")
    assert [kv.value.decode() for kv in snapshot.kvs] == ["n/10", "n/2", "n/é"]
    assert snapshot.revision == snapshot.kvs[-1].mod_revision


@pytest.mark.parametrize("shift", [0, 1])
async def test_compares_of_a_key_that_exists(store: Store, a: str, shift: int) -> None:
    lease = await store.grant(60)
    created = await store.put(a, b"0", lease)
    modified = await store.put(a, b"1", lease)
    for compare in (
        Compare(key=a, exists=not shift),
        Compare(key=a, create_revision=created + shift),
        Compare(key=a, mod_revision=modified + shift),
        Compare(key=a, lease=lease + shift),
        Compare(key=a, value=b"1" if shift == 0 else b"0"),
    ):
        assert (await store.transact([compare], [])).succeeded == (shift == 0), compare
    await store.revoke(lease)


async def test_compares_of_a_key_that_does_not_exist(store: Store, a: str) -> None:
    for compare, holds in (
        (Compare(key=a, exists=False), True),
        (Compare(key=a, exists=True), False),
        (Compare(key=a, create_revision=0), True),
        (Compare(key=a, mod_revision=0), True),
        (Compare(key=a, lease=0), True),
        (Compare(key=a, value=b""), False),
    ):
        assert (await store.transact([compare], [])).succeeded == holds, compare


async def test_all_compares_must_hold(store: Store, a: str, b: str) -> None:
    await store.put(a, b"1")
    both = [Compare(key=a, value=b"1"), Compare(key=b, exists=True)]
    result = await store.transact(both, [Put(key=a, value=b"then")], [Put(key=b, value=b"otherwise")])
    assert not result.succeeded
    assert [kv.value for kv in (await store.get_prefix(a[:-1])).kvs] == [b"1", b"otherwise"]


async def test_a_transaction_that_names_a_key_twice_is_refused_whole(store: Store, a: str, b: str) -> None:
    with pytest.raises(ValueError, match="occurs twice"):
        await store.transact([], [Put(key=b, value=b""), Put(key=a, value=b""), Delete(key=a)])
    assert await store.get(b) is None


async def test_empty_keys_are_refused(store: Store) -> None:
    for refused in (store.get(""), store.put("", b""), store.delete("")):
        with pytest.raises(ValueError, match="key is ''"):
            await refused


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, float("nan"), float("inf")])
async def test_a_lease_needs_a_positive_finite_time(store: Store, ttl_s: float) -> None:
    with pytest.raises(ValueError, match=r"ttl|JSON"):
        await store.grant(ttl_s)


async def test_the_events_of_a_transaction_come_as_one(store: Store, world: World, a: str, b: str) -> None:
    start = await store.put(b, b"old")
    watch = store.watch(world.prefix, start)
    operations: list[Operation] = [Put(key=world.prefix + "c", value=b"3"), Delete(key=b), Put(key=a, value=b"1")]
    revision = (await store.transact([], operations)).revision
    assert [event.kv.value for event in await next_of(watch)] == [b"old"]
    events = await next_of(watch)
    assert [(event.kind, event.kv.key) for event in events] == [("put", world.prefix + "c"), ("delete", b), ("put", a)]
    assert {event.revision for event in events} == {revision}
    assert events[2].kv == await store.get(a)
    assert events[1].kv == KeyValue(key=b, value=b"", create_revision=0, mod_revision=revision, version=0, lease=0)


async def test_a_watch_from_a_snapshot_sees_all_that_came_after_and_nothing_else(store: Store, world: World) -> None:
    for number in range(5):
        await store.put(f"{world.prefix}{number}", b"before")
    watch = store.watch(world.prefix, (await store.get_prefix(world.prefix)).revision + 1)
    written = [await store.put(f"{world.prefix}{number}", b"after") for number in range(50)]
    assert [(await next_of(watch))[0].revision for _ in written] == written


async def test_a_watch_sees_its_prefix_alone(store: Store, world: World, a: str) -> None:
    watch = store.watch(a + "/", await store.put(a, b""))
    for key in (a, a + "0", a + "/x"):
        await store.put(key, b"")
    assert [event.kv.key for event in await next_of(watch)] == [a + "/x"]


async def test_a_watch_may_begin_in_the_future(store: Store, world: World, a: str) -> None:
    revision = await store.put(a, b"now")
    watch = store.watch(world.prefix, revision + 2)
    await store.put(a, b"too soon")
    await store.put(a, b"then")
    assert (await next_of(watch))[0].kv.value == b"then"


async def test_watches_do_not_take_from_each_other(store: Store, world: World, a: str) -> None:
    other = await world.connect()
    start = await store.put(a, b"0")
    watches = [client.watch(world.prefix, start + 1) for client in (store, store, other)]
    waiting = [asyncio.create_task(next_of(watch)) for watch in watches]
    await store.put(a, b"1")
    assert [events[0].kv.value for events in await asyncio.gather(*waiting)] == [b"1"] * 3


async def test_cancelling_a_wait_loses_nothing(store: Store, world: World, a: str) -> None:
    watch = store.watch(world.prefix, await store.put(a, b"first"))
    assert (await next_of(watch))[0].kv.value == b"first"
    for number in range(20):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(watch), 0.002)
        revision = await store.put(a, str(number).encode())
        assert [event.revision for event in await next_of(watch)] == [revision]


async def test_a_watch_of_what_is_compacted_says_so(store: Store, world: World, a: str) -> None:
    revisions = [await store.put(a, b"") for _ in range(5)]
    await world.compact(revisions[3])
    with pytest.raises(CompactedError):
        await next_of(store.watch(world.prefix, revisions[2]))
    assert (await next_of(store.watch(world.prefix, revisions[3])))[0].revision == revisions[3]


async def test_a_watch_from_before_the_beginning_is_refused(store: Store, world: World) -> None:
    with pytest.raises(ValueError, match="from_revision is 0"):
        store.watch(world.prefix, 0)


async def test_a_lease_that_ends_takes_its_keys_along_at_once(store: Store, world: World, a: str, b: str) -> None:
    lease = await store.grant(TTL_S)
    kept = world.prefix + "kept"
    puts = [Put(key=b, value=b"", lease=lease), Put(key=a, value=b"", lease=lease), Put(key=kept, value=b"")]
    written = await store.transact([], puts)
    watch = store.watch(world.prefix, written.revision + 1)
    with world.at_rest():
        events = await next_of(watch)
    assert [(event.kind, event.kv.key) for event in events] == [("delete", a), ("delete", b)]
    assert [kv.key for kv in (await store.get_prefix(world.prefix)).kvs] == [kept]
    with pytest.raises(LeaseExpiredError):
        await store.keep_alive(lease)


async def test_a_lease_kept_alive_lives(store: Store, world: World, a: str) -> None:
    while True:
        lease = await store.grant(TTL_S)
        watch = store.watch(a, await store.put(a, b"", lease) + 1)
        renewed_s = time.monotonic()
        try:
            for _ in range(16):
                assert 0 < await store.keep_alive(lease) <= TTL_S + 1
                renewed_s = time.monotonic()
                await asyncio.sleep(TTL_S / 10)
            assert await store.get(a) is not None
            break
        except (LeaseExpiredError, AssertionError):
            if time.monotonic() - renewed_s < TTL_S * 0.8:
                raise
            # This machine stood still, and the lease ran out meanwhile: once more.
    with world.at_rest():
        assert [event.kind for event in await next_of(watch)] == ["delete"]


async def test_a_lease_revoked_takes_its_keys_along(store: Store, a: str, b: str) -> None:
    lease = await store.grant(60)
    await store.put(a, b"", lease)
    await store.put(b, b"", lease)
    await store.revoke(lease)
    await store.revoke(lease)
    assert await store.get(a) is None
    assert await store.get(b) is None
    with pytest.raises(LeaseExpiredError):
        await store.keep_alive(lease)


async def test_a_put_on_a_dead_lease_writes_nothing(store: Store, a: str, b: str) -> None:
    lease = await store.grant(60)
    await store.revoke(lease)
    with pytest.raises(LeaseExpiredError):
        await store.put(a, b"", lease)
    with pytest.raises(LeaseExpiredError):
        await store.transact([], [Put(key=b, value=b""), Put(key=a, value=b"", lease=lease)])
    assert await store.get(b) is None


async def test_a_key_hangs_on_its_last_lease_alone(store: Store, a: str, b: str) -> None:
    first, second = await store.grant(60), await store.grant(60)
    for key in (a, b):
        await store.put(key, b"", first)
    await store.put(a, b"", second)
    await store.put(b, b"")
    await store.revoke(first)
    assert await store.get(a) is not None
    await store.revoke(second)
    assert await store.get(a) is None
    assert await store.get(b) is not None


async def test_of_many_who_compete_for_a_key_one_wins(world: World, a: str) -> None:
    clients = [await world.connect() for _ in range(8)]
    contest = [
        client.transact([Compare(key=a, exists=False)], [Put(key=a, value=str(number).encode())])
        for number, client in enumerate(clients)
    ]
    results = await asyncio.gather(*contest)
    kv = await world.store.get(a)
    assert kv is not None
    assert [number for number, result in enumerate(results) if result.succeeded] == [int(kv.value)]


async def test_a_closed_store_answers_nothing_more(world: World, a: str) -> None:
    client = await world.connect()
    watch = client.watch(world.prefix, await client.put(a, b"") + 1)
    waiting = asyncio.create_task(next_of(watch))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.05)
    await client.close()
    await client.close()
    with pytest.raises(StoreUnavailableError):
        await waiting
    with pytest.raises(StoreUnavailableError):
        await client.get(a)

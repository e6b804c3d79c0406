"""The etcd store on three real members: whichever is lost, frozen or cut off, the store serves on."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from harness.etcd.careful import CarefulStore
from harness.etcd.cluster import EtcdCluster, rotating, running_cluster
from harness.server_process import free_ports
from holdfast.errors import LeaseExpiredError, StoreUnavailableError
from holdfast.ports.store import Store, WatchEvent
from holdfast.stores.address import open_store, parse_store
from holdfast.stores.etcd.store import EtcdStore

pytestmark = [pytest.mark.asyncio, pytest.mark.slow]

WITHIN_S = 60.0


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with running_cluster(tmp_path_factory.mktemp("etcd-cluster")) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: EtcdCluster) -> EtcdCluster:
    """All members back on their feet, whatever the test before did to them."""
    shared_cluster.revive()
    return shared_cluster


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return f"{request.node.name}/"


@asynccontextmanager
async def opened(
    endpoints: tuple[tuple[str, int], ...], prefix: str, *, timeout_s: float = 10.0
) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(endpoints, prefix=prefix, timeout_s=timeout_s)
    try:
        yield store
    finally:
        await store.close()


async def next_of(watch: AsyncIterator[tuple[WatchEvent, ...]]) -> tuple[WatchEvent, ...]:
    return await asyncio.wait_for(anext(watch), WITHIN_S)


async def test_every_acknowledged_write_is_seen_once_while_each_member_is_killed_in_turn(
    cluster: EtcdCluster, prefix: str
) -> None:
    async with opened(cluster.endpoints, prefix) as writing, opened(cluster.endpoints, prefix) as reading:
        writer = CarefulStore(writing)
        watch = reading.watch("", (await reading.get_prefix("")).revision + 1)
        lease = await writer.grant(60)
        written: list[int] = []
        with rotating(cluster) as rotation:
            async with asyncio.timeout(WITHIN_S):
                while not rotation.killed_each(2):
                    written.append(await writer.put(f"k{len(written) % 7}", b"%d" % len(written)))
                    await writer.keep_alive(lease)
        written.append(await writer.put("end", b""))
        seen: list[int] = []
        while not seen or seen[-1] < written[-1]:
            batch = await next_of(watch)
            seen.append(batch[0].revision)
    assert seen == written


async def test_a_call_goes_to_the_next_endpoint_when_one_is_dead(cluster: EtcdCluster, prefix: str) -> None:
    dead = [("127.0.0.1", port) for port in free_ports(2)]
    for endpoints in ((*dead, cluster.endpoints[0]), (cluster.endpoints[0], *dead)):
        async with opened(endpoints, prefix) as store:
            revision = await patient_put(store, "a", b"")
            assert (await next_of(store.watch("", revision)))[0].revision == revision


@pytest.mark.parametrize("index", [0, 1, 2])
async def test_calls_and_watches_leave_a_member_that_freezes(cluster: EtcdCluster, prefix: str, index: int) -> None:
    first, *others = (*cluster.endpoints[index:], *cluster.endpoints[:index])
    async with opened((first, *others), prefix, timeout_s=12.0) as store, opened(tuple(others), prefix) as writer:
        watch = store.watch("", await patient_put(writer, "a", b"0") + 1)
        waiting = asyncio.create_task(next_of(watch))
        revision = await patient_put(writer, "a", b"1")
        assert (await waiting)[0].revision == revision
        waiting = asyncio.create_task(next_of(watch))
        cluster.members[index].freeze()
        try:
            # A read may be asked twice, so the deadline is not reached.
            kv = await store.get("a")
            assert kv is not None
            assert kv.value == b"1"
            revision = await patient_put(writer, "a", b"2")
            assert (await waiting)[0].revision == revision
        finally:
            cluster.members[index].thaw()


async def test_a_watch_leaves_a_member_that_freezes_though_nothing_else_is_asked_of_it(
    cluster: EtcdCluster, prefix: str
) -> None:
    first, *others = cluster.endpoints
    async with opened((first, *others), prefix) as store, opened(tuple(others), prefix) as writer:
        watch = store.watch("", await patient_put(writer, "a", b"0"))
        assert (await next_of(watch))[0].kv.value == b"0"
        cluster.members[0].freeze()
        try:
            revision = await patient_put(writer, "a", b"1")
            # gRPC's keepalive has to find it: ten seconds by our settings, more than a minute by gRPC's own.
            assert (await asyncio.wait_for(anext(watch), WITHIN_S / 2))[0].revision == revision
        finally:
            cluster.members[0].thaw()


async def test_a_watch_begins_elsewhere_when_its_member_froze_before(cluster: EtcdCluster, prefix: str) -> None:
    first, *others = cluster.endpoints
    async with opened((first, *others), prefix) as store, opened(tuple(others), prefix) as writer:
        assert await store.get("a") is None  # connected
        cluster.members[0].freeze()
        try:
            revision = await patient_put(writer, "a", b"0")
            assert (await next_of(store.watch("", revision)))[0].revision == revision
        finally:
            cluster.members[0].thaw()


async def test_a_renewal_asks_another_member_long_before_the_lease_ends(cluster: EtcdCluster, prefix: str) -> None:
    silent, *others = sorted(cluster.members, key=lambda member: member.metric("etcd_server_is_leader"))
    async with opened((silent.endpoint, *(one.endpoint for one in others)), prefix, timeout_s=30.0) as store:
        lease = await store.grant(10.0)  # gone by the time that the silent one is given up
        await patient_put(store, "a", b"", lease)
        silent.freeze()
        try:
            await store.keep_alive(lease)
            assert await store.get("a") is not None
        finally:
            silent.thaw()


async def patient_put(store: Store, key: str, value: bytes, lease: int = 0) -> int:
    """The frozen member may have led, or a busy machine makes them elect anew: there is no leader for a moment."""
    return await CarefulStore(store).put(key, value, lease)


async def test_a_member_cut_off_from_the_others_neither_serves_nor_blinds_us(cluster: EtcdCluster, prefix: str) -> None:
    alone, *others = cluster.members
    async with (
        opened((alone.endpoint,), prefix, timeout_s=1.0) as cut_off,
        opened(cluster.endpoints, prefix) as store,
    ):
        watch = store.watch("", await patient_put(store, "a", b"0"))
        assert (await next_of(watch))[0].kv.value == b"0"
        lost = asyncio.create_task(next_of(watch))
        blind = asyncio.create_task(next_of(cut_off.watch("", (await store.get_prefix("")).revision + 1)))
        for member in others:
            member.kill()
        # Without a quorum nothing is promised, and that is said in time.
        for ask in (lambda: cut_off.get("a"), lambda: cut_off.put("a", b"x"), lambda: cut_off.grant(5)):
            with pytest.raises(StoreUnavailableError):
                await ask()
        alone.kill()
        for member in others:
            cluster.start(member)
        for member in others:
            await asyncio.to_thread(member.wait_healthy)
        revision = await CarefulStore(store).put("b", b"1")
        assert (await lost)[0].revision == revision
        assert not blind.done()
        cluster.start(alone)
        assert (await blind)[0].revision == revision


async def test_leases_outlive_their_leader_and_end_when_they_should(cluster: EtcdCluster, prefix: str) -> None:
    async with opened(cluster.endpoints, prefix) as store:
        lease = await store.grant(10)
        watch = store.watch("", await patient_put(store, "a", b"", lease) + 1)
        for member in cluster.members:
            member.kill()
            assert await store.keep_alive(lease) == 10
            cluster.start(member)
            await asyncio.to_thread(cluster.wait_healthy)
        assert await store.get("a") is not None
        assert [event.kind for event in await next_of(watch)] == ["delete"]
        with pytest.raises(LeaseExpiredError):
            await store.keep_alive(lease)


async def test_an_address_opens_the_cluster(cluster: EtcdCluster) -> None:
    hosts = ",".join(f"{host}:{port}" for host, port in cluster.endpoints)
    store = open_store(parse_store(f"etcd://{hosts}/by/address"))
    revision = await patient_put(store, "a", b"1")
    kv = await store.get("a")
    await store.close()
    assert kv is not None
    assert (kv.key, kv.mod_revision) == ("a", revision)

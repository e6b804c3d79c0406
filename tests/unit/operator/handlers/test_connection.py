"""A connection outlives whatever happens to its rendezvous, and says what it knows of it and what it does not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from harness.records import JOB, KEYS, NODE, RECORDS
from harness.waiting import until
from holdfast.errors import StoreUnavailableError
from holdfast.model.wire import encode
from holdfast.ports.store import KeyValue
from holdfast.stores.address import parse_store
from holdfast.stores.memory import MemoryStore
from holdfast_operator.handlers import connection
from holdfast_operator.handlers.client import Cluster, Object, Resource
from holdfast_operator.handlers.connection import Connection
from holdfast_operator.handlers.errors import ClusterUnavailableError
from holdfast_operator.handlers.following import Follower
from holdfast_operator.handlers.run_fold import RunFold
from holdfast_operator.handlers.store_access import StorePlace, access_from
from holdfast_operator.handlers.tasks import Tasks


class FailingStore(MemoryStore):
    """Raises `trouble` when it is asked whether it answers."""

    trouble: Exception | None = None

    async def get(self, key: str) -> KeyValue | None:
        if self.trouble is not None:
            raise self.trouble
        return await super().get(key)


class BusyCluster:
    """An API server that has too many requests, until it has fewer."""

    is_busy = True
    asked = 0

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        self.asked += 1
        if self.is_busy:
            raise ClusterUnavailableError("too many requests (429)")
        return {"data": {"username": "dQ==", "password": "cA=="}}


def follower() -> Follower:
    return Follower(KEYS, RunFold(KEYS, recoveries=0, generation=0), lambda is_news: None)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_PING_S", "_AGAIN_S"):
        monkeypatch.setattr(connection, name, 0.01)


@pytest.fixture
async def store(monkeypatch: pytest.MonkeyPatch) -> FailingStore:
    """What every connection is opened to."""
    one = FailingStore()
    monkeypatch.setattr(connection, "open_store", lambda *_, **__: one)
    for key in (KEYS.one("spec"), KEYS.node(NODE)):
        await one.put(key, encode(RECORDS.get(key, JOB)))
    return one


@asynccontextmanager
async def opened(cluster: Any = None, credentials: str | None = None) -> AsyncIterator[tuple[Connection, Tasks]]:
    address = parse_store("etcd://127.0.0.1:1/x")
    place = StorePlace(address=address, namespace="ns", tls_secret=None, credentials_secret=credentials)
    tasks = Tasks()
    one = Connection(cast(Cluster, cluster), place, tasks, lambda: None)
    try:
        yield one, tasks
    finally:
        await one.close()
        await tasks.close()


@pytest.mark.parametrize("error", [ValueError("larger than max"), OSError("no space left"), ZeroDivisionError("a bug")])
async def test_what_one_rendezvous_raises_is_its_trouble_and_ends_nothing(
    store: FailingStore, error: Exception
) -> None:
    store.trouble = error
    async with opened() as (one, tasks):
        failure = asyncio.create_task(tasks.failure())
        await until(lambda: str(error) in one.trouble, within_s=5.0)
        await asyncio.sleep(0.05)
        assert not failure.done()
        failure.cancel()


async def test_a_full_disk_is_told_and_got_over(store: FailingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(connection, "access_from", full)
    async with opened() as (one, _):
        await until(lambda: "No space left on device" in one.trouble, within_s=5.0)
        monkeypatch.setattr(connection, "access_from", access_from)
        await until(lambda: one.trouble == "" and one.store is store, within_s=5.0)


async def test_a_busy_api_server_is_no_news_of_the_rendezvous(store: FailingStore) -> None:
    cluster, one_follower = BusyCluster(), follower()
    async with opened(cluster, "credentials") as (one, _):
        one.attach(one_follower)
        await until(lambda: cluster.asked > 2, within_s=5.0)
        assert (one.trouble, one_follower.is_current) == ("", False)
        cluster.is_busy = False
        await until(lambda: one_follower.is_current, within_s=5.0)


async def test_after_the_store_was_away_a_job_is_current_only_once_it_was_read_again(store: FailingStore) -> None:
    one_follower = follower()
    async with opened() as (one, _):
        one.attach(one_follower)
        await until(lambda: one_follower.is_current, within_s=5.0)
        shown: list[bool] = []
        one._told = lambda: shown.append(one_follower.is_current)
        store.trouble = StoreUnavailableError("away")
        await until(lambda: one.trouble == "away", within_s=5.0)
        store.trouble = None
        await until(lambda: one.trouble == "", within_s=5.0)
        assert shown == [True, False]  # away, which is a trouble; then there, and not read yet
        await until(lambda: one_follower.is_current, within_s=5.0)

"""Every kind of store there is, opened for the conformance suite."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from harness.etcd.careful import CarefulStore
from harness.etcd.cluster import rotating, running_cluster
from harness.etcd.operating import compact_history
from harness.etcd.server import running_server
from holdfast.ports.store import Store
from holdfast.stores.embedded import EmbeddedServer, EmbeddedStore
from holdfast.stores.etcd.store import EtcdStore
from holdfast.stores.keyspace import Keyspace
from holdfast.stores.memory import MemoryStore


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One store under test. `connect` opens another client to it; `compact` forgets history before a revision; within
    `at_rest` none of its servers is killed."""

    store: Store
    connect: Callable[[], Awaitable[Store]]
    compact: Callable[[int], Awaitable[None]]
    prefix: str
    at_rest: Callable[[], AbstractContextManager[None]] = nullcontext


@asynccontextmanager
async def open_memory(prefix: str) -> AsyncIterator[World]:
    keyspace = Keyspace()
    store = MemoryStore(keyspace)

    async def connect() -> Store:
        return store

    async def compact(revision: int) -> None:
        keyspace.compact(revision)

    yield World(store=store, connect=connect, compact=compact, prefix=prefix)
    await store.close()


@asynccontextmanager
async def open_embedded(prefix: str) -> AsyncIterator[World]:
    keyspace = Keyspace()
    server = EmbeddedServer(keyspace=keyspace)
    await server.start()
    clients: list[Store] = []

    async def connect() -> Store:
        clients.append(EmbeddedStore(server.host, server.port))
        return clients[-1]

    async def compact(revision: int) -> None:
        keyspace.compact(revision)

    yield World(store=await connect(), connect=connect, compact=compact, prefix=prefix)
    for client in clients:
        await client.close()
    await server.close()


Opener: TypeAlias = Callable[[str], AbstractAsyncContextManager[World]]


def etcd_opener(
    endpoints: tuple[tuple[str, int], ...],
    wrap: Callable[[Store], Store] = lambda store: store,
    at_rest: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Opener:
    @asynccontextmanager
    async def open_etcd(prefix: str) -> AsyncIterator[World]:
        clients: list[Store] = []

        async def connect() -> Store:
            clients.append(wrap(EtcdStore(endpoints, prefix="conformance/", timeout_s=10.0)))
            return clients[-1]

        async def compact(revision: int) -> None:
            await compact_history(endpoints, revision)

        yield World(store=await connect(), connect=connect, compact=compact, prefix=prefix, at_rest=at_rest)
        for client in clients:
            await client.close()

    return open_etcd


@contextmanager
def no_server(folder: Path, opener: Opener) -> Iterator[Opener]:
    yield opener


@contextmanager
def one_etcd(folder: Path) -> Iterator[Opener]:
    with running_server(folder) as server:
        yield etcd_opener((server.endpoint,))


@contextmanager
def dying_cluster(folder: Path) -> Iterator[Opener]:
    """Its members are killed in turn while the tests run, so a write's author must mind what the contract says."""
    with running_cluster(folder) as cluster, rotating(cluster) as rotation:
        yield etcd_opener(cluster.endpoints, wrap=CarefulStore, at_rest=rotation.at_rest)


OPENERS: dict[str, Callable[[Path], AbstractContextManager[Opener]]] = {
    "memory": partial(no_server, opener=open_memory),
    "embedded": partial(no_server, opener=open_embedded),
    "etcd": one_etcd,
    "etcd-cluster": dying_cluster,
}

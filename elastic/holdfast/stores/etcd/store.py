"""`EtcdStore`: the store's contract on etcd's own.

Rule: reads, renewals and grants are asked again, of other members too, until the deadline; a write that may have taken
effect never is, and raises StoreUnavailableError for its author to read before repeating it.
"""

import asyncio
import math
import random
import weakref
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc.aio
from aetcd import rpc
from grpc.aio import AioRpcError

from holdfast.errors import LeaseExpiredError
from holdfast.ports.store import (
    Compare,
    Delete,
    KeyValue,
    Operation,
    Put,
    Snapshot,
    TxnResult,
    WatchEvent,
    require_distinct_keys,
    require_key,
)
from holdfast.stores.etcd.cluster import Cluster, Metadata
from holdfast.stores.etcd.failures import is_lease_gone, is_lease_taken
from holdfast.stores.etcd.member import Member
from holdfast.stores.etcd.messages import Messages
from holdfast.stores.etcd.tls import TlsFiles
from holdfast.stores.etcd.watching import WatchFeed
from holdfast.stores.polling import PolledWatch

_LEASE_IDS = 1 << 62
# Of a lease's life, how long its renewal may take before another member is asked.
_PATIENCE = 1 / 6


class EtcdStore:
    """Build it inside a running event loop; it connects with the first call, to one of `endpoints` at a time, in turn.

    Keys stand behind `prefix`, which the user of the store never sees. A call raises StoreUnavailableError after
    `timeout_s` without an answer. Watches outlast that: they wait for the store for ever. `login` is user and password;
    without `tls` both travel in the clear.
    """

    def __init__(
        self,
        endpoints: Sequence[tuple[str, int]],
        *,
        prefix: str = "",
        timeout_s: float = 5.0,
        tls: TlsFiles | None = None,
        login: tuple[str, str] | None = None,
    ) -> None:
        if not endpoints:
            raise ValueError("endpoints is empty; give at least one host and port")
        if timeout_s <= 0:
            raise ValueError(f"timeout_s is {timeout_s}; give a positive number of seconds")
        addresses = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in endpoints]
        self._cluster = Cluster(addresses, timeout_s=timeout_s, tls=tls, login=login)
        self._messages = Messages(prefix)
        self._ttls_s: dict[int, int] = {}  # of the leases granted here
        self._feeds: weakref.WeakSet[WatchFeed] = weakref.WeakSet()

    async def get(self, key: str) -> KeyValue | None:
        require_key(key)
        reply = await self._range(self._messages.range_of_key(key), f"get of {key!r}")
        return self._messages.key_value(reply.kvs[0]) if reply.kvs else None

    async def get_prefix(self, prefix: str) -> Snapshot:
        reply = await self._range(self._messages.range_of_prefix(prefix), f"get of prefix {prefix!r}")
        return Snapshot(revision=reply.header.revision, kvs=tuple(map(self._messages.key_value, reply.kvs)))

    async def put(self, key: str, value: bytes, lease: int = 0) -> int:
        request = self._messages.put(Put(key=key, value=value, lease=lease))
        reply = await self._cluster.ask(
            f"put of {key!r}",
            lambda member, metadata, left_s: member.kv.Put(request, metadata=metadata, timeout=left_s),
            repeatable=False,
        )
        return int(reply.header.revision)

    async def delete(self, key: str) -> bool:
        request = self._messages.delete(Delete(key=key).key)
        reply = await self._cluster.ask(
            f"delete of {key!r}",
            lambda member, metadata, left_s: member.kv.DeleteRange(request, metadata=metadata, timeout=left_s),
            repeatable=False,
        )
        return bool(reply.deleted)

    async def transact(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        require_distinct_keys(then)
        require_distinct_keys(otherwise)
        request = self._messages.txn(compares, then, otherwise)
        reply = await self._cluster.ask(
            "transaction on " + (", ".join(repr(operation.key) for operation in (*then, *otherwise)[:3]) or "no key"),
            lambda member, metadata, left_s: member.kv.Txn(request, metadata=metadata, timeout=left_s),
            # One that can write nothing is a read.
            repeatable=not then and not otherwise,
        )
        return TxnResult(succeeded=reply.succeeded, revision=reply.header.revision)

    async def grant(self, ttl_s: float) -> int:
        if not 0 < ttl_s < math.inf:
            raise ValueError(f"ttl_s is {ttl_s}; give a positive number of seconds")
        # The id is ours, so that asking twice still makes one lease.
        lease = random.randrange(1, _LEASE_IDS)
        request = rpc.LeaseGrantRequest(ID=lease, TTL=math.ceil(ttl_s))

        async def ask(member: Member, metadata: Metadata, left_s: float) -> None:
            try:
                await member.lease.LeaseGrant(request, metadata=metadata, timeout=left_s)
            except AioRpcError as error:
                if not is_lease_taken(error):
                    raise

        await self._cluster.ask(f"grant of a lease of {ttl_s} s", ask, repeatable=True)
        self._ttls_s[lease] = request.TTL
        return lease

    async def keep_alive(self, lease: int) -> float:
        request = rpc.LeaseKeepAliveRequest(ID=lease)

        async def ask(member: Member, metadata: Metadata, left_s: float) -> Any:
            call = member.lease.LeaseKeepAlive(metadata=metadata, timeout=left_s)
            try:
                await call.write(request)
                reply = await call.read()
            finally:
                call.cancel()
            if reply is grpc.aio.EOF:
                raise ConnectionAbortedError("the stream ended without a reply")
            return reply

        # Renewed at a third of its life, a lease must not end because one member is silent.
        patience_s = self._ttls_s.get(lease, math.inf) * _PATIENCE
        reply = await self._cluster.ask(f"renewal of lease {lease}", ask, repeatable=True, patience_s=patience_s)
        if reply.TTL <= 0:
            self._ttls_s.pop(lease, None)
            raise LeaseExpiredError(f"lease {lease} has expired, was revoked or never was; grant a new one")
        return float(reply.TTL)

    async def revoke(self, lease: int) -> None:
        request = rpc.LeaseRevokeRequest(ID=lease)

        async def ask(member: Member, metadata: Metadata, left_s: float) -> None:
            try:
                await member.lease.LeaseRevoke(request, metadata=metadata, timeout=left_s)
            except AioRpcError as error:
                if not is_lease_gone(error):
                    raise

        # Ids are never used twice, so revoking twice revokes the same lease.
        await self._cluster.ask(f"end of lease {lease}", ask, repeatable=True)
        self._ttls_s.pop(lease, None)

    def watch(self, prefix: str, from_revision: int) -> AsyncIterator[tuple[WatchEvent, ...]]:
        feed = WatchFeed(self._cluster, self._messages, prefix)
        watch = PolledWatch(feed.poll, from_revision)
        self._feeds.add(feed)
        weakref.finalize(watch, feed.abandon).atexit = False
        return watch

    async def close(self) -> None:
        await self._cluster.close()
        await asyncio.gather(*(feed.close() for feed in tuple(self._feeds)))

    async def _range(self, request: Any, what: str) -> Any:
        return await self._cluster.ask(
            what,
            lambda member, metadata, left_s: member.kv.Range(request, metadata=metadata, timeout=left_s),
            repeatable=True,
        )

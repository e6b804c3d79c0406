"""The embedded store: `EmbeddedServer` serves a `Keyspace` on a socket, `EmbeddedStore` is its client.

It is what `holdfast run` uses in place of etcd. Rule: a broken connection is invisible but for the time it
takes. Calls without an answer are asked again on the next connection, also writes, which the server
applies once (see `Ledger`); watches go on from the revision they had reached.
"""

from collections.abc import AsyncIterator, Sequence

from holdfast.errors import ProtocolError, StoreUnavailableError
from holdfast.ports.store import Compare, KeyValue, Operation, Snapshot, TxnResult, WatchEvent
from holdfast.stores.channel import Channel
from holdfast.stores.embedded_server import EmbeddedServer
from holdfast.stores.polling import Polled, PolledWatch
from holdfast.stores.wire import (
    decode_key_value,
    decode_polled,
    encode_bytes,
    encode_compare,
    encode_operation,
)

__all__ = ["EmbeddedServer", "EmbeddedStore"]

# How long the server holds a poll without events: often enough to notice a connection that died silently,
# and to keep the position of a quiet watch ahead of compaction.
_POLL_S = 10.0


class EmbeddedStore:
    """Build it inside a running event loop; it connects in the background, whether or not the server is up yet.

    A call raises StoreUnavailableError after `timeout_s` without an answer. Watches outlast that: with
    `watch_deadline_s` None they wait for the server for ever, otherwise they raise StoreUnavailableError
    once it was silent for that long, and may then be asked again. A server that was started anew with
    another keyspace, or that refuses `secret`, makes every call raise StoreError from then on.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        timeout_s: float = 5.0,
        watch_deadline_s: float | None = None,
        secret: bytes = b"",
    ) -> None:
        for name, seconds in (("timeout_s", timeout_s), ("watch_deadline_s", watch_deadline_s)):
            if seconds is not None and seconds <= 0:
                raise ValueError(f"{name} is {seconds}; give a positive number of seconds")
        self._timeout_s = timeout_s
        self._watch_deadline_s = watch_deadline_s
        self._channel = Channel(host, port, secret=secret)

    async def get(self, key: str) -> KeyValue | None:
        raw = await self._call("get", key)
        return None if raw is None else decode_key_value(raw)

    async def get_prefix(self, prefix: str) -> Snapshot:
        match await self._call("get_prefix", prefix):
            case [int(revision), list(kvs)]:
                return Snapshot(revision=revision, kvs=tuple(map(decode_key_value, kvs)))
            case other:
                raise _unexpected("get_prefix", other)

    async def put(self, key: str, value: bytes, lease: int = 0) -> int:
        match await self._call("put", key, encode_bytes(value), lease):
            case int(revision):
                return revision
            case other:
                raise _unexpected("put", other)

    async def delete(self, key: str) -> bool:
        match await self._call("delete", key):
            case bool(existed):
                return existed
            case other:
                raise _unexpected("delete", other)

    async def transact(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        reply = await self._call(
            "transact",
            [encode_compare(compare) for compare in compares],
            [encode_operation(operation) for operation in then],
            [encode_operation(operation) for operation in otherwise],
        )
        match reply:
            case [bool(succeeded), int(revision)]:
                return TxnResult(succeeded=succeeded, revision=revision)
            case other:
                raise _unexpected("transact", other)

    async def grant(self, ttl_s: float) -> int:
        match await self._call("grant", ttl_s):
            case int(lease):
                return lease
            case other:
                raise _unexpected("grant", other)

    async def keep_alive(self, lease: int) -> float:
        match await self._call("keep_alive", lease):
            case int() | float() as remaining_s:
                return remaining_s
            case other:
                raise _unexpected("keep_alive", other)

    async def revoke(self, lease: int) -> None:
        await self._call("revoke", lease)

    def watch(self, prefix: str, from_revision: int) -> AsyncIterator[tuple[WatchEvent, ...]]:
        async def poll(revision: int) -> Polled:
            return await self._poll(prefix, revision)

        return PolledWatch(poll, from_revision)

    async def close(self) -> None:
        await self._channel.close()

    async def _poll(self, prefix: str, from_revision: int) -> Polled:
        deadline_s = self._watch_deadline_s
        wait_s = _POLL_S if deadline_s is None else min(_POLL_S, deadline_s / 2)
        timeout_s = wait_s + self._timeout_s if deadline_s is None else deadline_s
        while True:
            try:
                raw = await self._channel.call("poll", [prefix, from_revision, wait_s], timeout_s=timeout_s)
            except StoreUnavailableError:
                if deadline_s is not None or self._channel.failed:
                    raise
            else:
                return decode_polled(raw)

    async def _call(self, method: str, *args: object) -> object:
        return await self._channel.call(method, args, timeout_s=self._timeout_s)


def _unexpected(method: str, reply: object) -> ProtocolError:
    return ProtocolError(f"the store's reply to {method!r} is {repr(reply)[:200]}; client and server differ")

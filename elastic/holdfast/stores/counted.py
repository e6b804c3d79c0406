"""A store whose failures somebody counts."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from holdfast.errors import StoreUnavailableError
from holdfast.ports.store import Compare, KeyValue, Operation, Snapshot, Store, TxnResult, WatchEvent

T = TypeVar("T")


class CountedStore:
    """`failed` is told the name of each call that raises StoreUnavailableError. Watches raise it only after `close`."""

    def __init__(self, store: Store, failed: Callable[[str], None]) -> None:
        self._store, self._failed = store, failed

    async def get(self, key: str) -> KeyValue | None:
        return await self._counted("get", self._store.get(key))

    async def get_prefix(self, prefix: str) -> Snapshot:
        return await self._counted("get_prefix", self._store.get_prefix(prefix))

    async def put(self, key: str, value: bytes, lease: int = 0) -> int:
        return await self._counted("put", self._store.put(key, value, lease))

    async def delete(self, key: str) -> bool:
        return await self._counted("delete", self._store.delete(key))

    async def transact(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        return await self._counted("transact", self._store.transact(compares, then, otherwise))

    async def grant(self, ttl_s: float) -> int:
        return await self._counted("grant", self._store.grant(ttl_s))

    async def keep_alive(self, lease: int) -> float:
        return await self._counted("keep_alive", self._store.keep_alive(lease))

    async def revoke(self, lease: int) -> None:
        await self._counted("revoke", self._store.revoke(lease))

    def watch(self, prefix: str, from_revision: int) -> AsyncIterator[tuple[WatchEvent, ...]]:
        return self._store.watch(prefix, from_revision)

    async def close(self) -> None:
        await self._store.close()

    async def _counted(self, call: str, answer: Awaitable[T]) -> T:
        try:
            return await answer
        except StoreUnavailableError:
            self._failed(call)
            raise

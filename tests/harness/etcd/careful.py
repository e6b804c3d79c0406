"""A store's user who takes the contract at its word: of a write whose fate is unknown he reads before repeating it.

For keys that nobody else writes, or with values that nobody else writes, this makes every write happen exactly once.
"""

from collections.abc import AsyncIterator, Sequence

from holdfast.errors import StoreUnavailableError
from holdfast.ports.store import Compare, Delete, KeyValue, Operation, Put, Snapshot, Store, TxnResult, WatchEvent


class CarefulStore:
    """`broken` counts the writes whose fate was unknown."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.broken = 0

    async def get(self, key: str) -> KeyValue | None:
        return await self._store.get(key)

    async def get_prefix(self, prefix: str) -> Snapshot:
        return await self._store.get_prefix(prefix)

    async def put(self, key: str, value: bytes, lease: int = 0) -> int:
        before = await self._store.get(key) if key else None
        try:
            return await self._store.put(key, value, lease)
        except StoreUnavailableError:
            self.broken += 1
        # Whichever comes first, the write that broke off or this one: the other finds another revision.
        seen = before.mod_revision if before else 0
        again = await self.transact([Compare(key=key, mod_revision=seen)], [Put(key=key, value=value, lease=lease)])
        if again.succeeded:
            return again.revision
        held = await self._store.get(key)
        assert held is not None
        assert held.value == value
        return held.mod_revision

    async def delete(self, key: str) -> bool:
        before = await self._store.get(key) if key else None
        try:
            return await self._store.delete(key)
        except StoreUnavailableError:
            self.broken += 1
            await self.transact([], [Delete(key=key)])
            return before is not None

    async def transact(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        while True:
            before = (await self._store.get_prefix("")).revision
            try:
                return await self._store.transact(compares, then, otherwise)
            except StoreUnavailableError:
                self.broken += 1
            for succeeded, branch in ((True, then), (False, otherwise)):
                revision = await self._applied(branch, before)
                if revision is not None:
                    return TxnResult(succeeded=succeeded, revision=revision)

    async def grant(self, ttl_s: float) -> int:
        return await self._store.grant(ttl_s)

    async def keep_alive(self, lease: int) -> float:
        return await self._store.keep_alive(lease)

    async def revoke(self, lease: int) -> None:
        await self._store.revoke(lease)

    def watch(self, prefix: str, from_revision: int) -> AsyncIterator[tuple[WatchEvent, ...]]:
        return self._store.watch(prefix, from_revision)

    async def close(self) -> None:
        await self._store.close()

    async def _applied(self, branch: Sequence[Operation], before: int) -> int | None:
        """The revision in which all of `branch` was written after `before`; None if it was not."""
        revision = None
        for operation in branch:
            held = await self._store.get(operation.key)
            if isinstance(operation, Delete):
                if held is not None:
                    return None
            elif held is None or held.value != operation.value or held.mod_revision <= before:
                return None
            else:
                revision = held.mod_revision
        return revision

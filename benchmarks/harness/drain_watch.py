"""When drains are written in a rendezvous, as its etcd tells whoever watches it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from holdfast.model.records import DrainRecord
from holdfast.model.wire import decode
from holdfast.ports.store import Store
from holdfast.stores.address import open_store, parse_store
from holdfast_operator.api.v1alpha1.names import store_prefix

_WITHIN_S = 60.0


class DrainWatch:
    """`begun_s`: from which on it is counted, on the monotonic clock."""

    def __init__(self) -> None:
        self.begun_s = 0.0
        self._times_s: dict[str, float] = {}
        self._came = asyncio.Event()

    @staticmethod
    @asynccontextmanager
    async def of(endpoint: str, namespace: str) -> AsyncIterator["DrainWatch"]:
        """Of drains that are written from now on."""
        store = open_store(parse_store(f"etcd://{endpoint}/{store_prefix('holdfast', namespace)}"))
        watch = DrainWatch()
        standing = await store.get_prefix("jobs/none")
        task = asyncio.create_task(watch._follow(store, standing.revision + 1), name="drains")
        try:
            yield watch
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await store.close()

    async def wait(self, count: int) -> list[float]:
        """Seconds to each of so many."""
        async with asyncio.timeout(_WITHIN_S):
            while len(self._times_s) < count:
                self._came.clear()
                await self._came.wait()
        return [at_s - self.begun_s for at_s in self._times_s.values()]

    async def _follow(self, store: Store, revision: int) -> None:
        async for changes in store.watch("jobs/", revision):
            now_s = time.monotonic()
            for change in changes:
                if "/drains/" in change.kv.key and change.kind == "put":
                    drain = decode(DrainRecord, change.kv.value)
                    if not drain.released:
                        self._times_s.setdefault(change.kv.key, now_s)
                        self._came.set()

"""Following what stands under a prefix of the store, whatever happens to the store meanwhile.

A store that is away is waited for. Where history was compacted the prefix is read anew: what changed or is gone since
is told as a watch would have told it, but for states in between.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from holdfast.errors import CompactedError, StoreUnavailableError
from holdfast.ports.store import KeyValue, Snapshot, Store

log = logging.getLogger(__name__)
T = TypeVar("T")
See = Callable[[str, KeyValue | None], None]
_PAUSE_MAX_S = 1.0


async def surely(call: Callable[[], Awaitable[T]], what: str) -> T:
    """`call` until the store answers, with jittered pauses. A write may so be done twice: ask only for what may be."""

    def warn(state: RetryCallState) -> None:
        log.warning("store.unavailable", extra={"for": what, "attempt": state.attempt_number})

    attempts = AsyncRetrying(
        retry=retry_if_exception_type(StoreUnavailableError),
        wait=wait_random_exponential(multiplier=0.05, max=_PAUSE_MAX_S),
        before_sleep=warn,
    )

    async def attempt() -> T:  # tenacity awaits only what it sees to be a coroutine function
        return await call()

    return await attempts(attempt)


class Following:
    """`read` once, then `run`; `see` is told of each change: the key, and what it holds or None. `reread`: history was
    compacted, and a key may have come and gone without a word."""

    def __init__(self, store: Store, prefix: str, see: See, reread: Callable[[], None] = lambda: None) -> None:
        self._store, self._prefix, self._see, self._reread = store, prefix, see, reread
        self._known: dict[str, int] = {}  # revision of each key that is there
        self._revision = 0

    async def read(self) -> Snapshot:
        """All there is; not told to `see`."""
        snapshot = await surely(lambda: self._store.get_prefix(self._prefix), "read")
        self._known = {kv.key: kv.mod_revision for kv in snapshot.kvs}
        self._revision = snapshot.revision
        return snapshot

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                await surely(self._watch, "watch")
            except CompactedError:
                log.warning("store.compacted", extra={"revision": self._revision})
                await self._catch_up()

    async def _watch(self) -> None:
        async for changes in self._store.watch(self._prefix, self._revision + 1):
            self._revision = changes[0].revision
            for change in changes:
                self._take(change.kv.key, change.kv if change.kind == "put" else None)

    async def _catch_up(self) -> None:
        before = dict(self._known)
        snapshot = await self.read()
        for key in sorted(before.keys() - self._known.keys()):
            self._see(key, None)
        for kv in by_revision(snapshot.kvs):
            if before.get(kv.key) != kv.mod_revision:
                self._see(kv.key, kv)
        self._reread()

    def _take(self, key: str, kv: KeyValue | None) -> None:
        if kv is None:
            self._known.pop(key, None)
        else:
            self._known[key] = kv.mod_revision
        self._see(key, kv)


def by_revision(kvs: Iterable[KeyValue]) -> list[KeyValue]:
    """In the order in which they were written."""
    return sorted(kvs, key=lambda kv: kv.mod_revision)

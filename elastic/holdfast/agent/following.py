"""Following what stands under a prefix of the store, whatever happens to the store meanwhile.

A store that is away is waited for; so is one that refuses, once an agent runs: what its workers hold in memory is worth
more than an end at once, and a full disk or a changed password may be mended. Where history was compacted the prefix is
read anew: what changed or is gone since is told as a watch would have told it, but for states in between.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from holdfast.errors import CompactedError, LeaseExpiredError, RequestError, StoreError, StoreUnavailableError
from holdfast.ports.store import KeyValue, Snapshot, Store

log = logging.getLogger(__name__)
T = TypeVar("T")
See = Callable[[str, KeyValue | None], None]
# Between attempts: at a store that is away, and at one that refuses.
_AWAY_PAUSES = wait_random_exponential(multiplier=0.05, max=1.0)
_REFUSED_PAUSES = wait_random_exponential(multiplier=0.2, max=5.0)
_SAY_AGAIN_S = 30.0


def is_refusal(error: BaseException) -> bool:
    """The store answers, and will not do it until somebody mends it: no space, no permission, another password."""
    others = (StoreUnavailableError, LeaseExpiredError, CompactedError, RequestError)
    return isinstance(error, StoreError) and not isinstance(error, others)


class StoreTrouble:
    """Says what is wrong with the store: each failure of one that is away, and once a while what one refuses."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._said_s: float | None = None

    def say(self, error: BaseException, attempt: int = 1) -> None:
        if not is_refusal(error):
            log.warning("store.unavailable", extra={"for": self._what, "attempt": attempt, "error": str(error)})
            return
        now_s = time.monotonic()
        if self._said_s is None or now_s >= self._said_s + _SAY_AGAIN_S:
            self._said_s = now_s
            log.error("store.refused", extra={"for": self._what, "attempt": attempt, "error": str(error)})


async def surely(call: Callable[[], Awaitable[T]], what: str, *, patient: bool = True) -> T:
    """`call` until the store does it, with jittered pauses. A write may so be done twice: ask only for what may be.
    `patient`: also where the store refuses; without it that is raised, since an agent that did not begin loses nothing.

    Raises:
        LeaseExpiredError, CompactedError, ValueError: no repetition mends these.
    """
    trouble = StoreTrouble(what)

    def warn(state: RetryCallState) -> None:
        trouble.say(_error_of(state), state.attempt_number)

    def pause_s(state: RetryCallState) -> float:
        return (_REFUSED_PAUSES if is_refusal(_error_of(state)) else _AWAY_PAUSES)(state)

    attempts = AsyncRetrying(
        retry=retry_if_exception(lambda e: isinstance(e, StoreUnavailableError) or (patient and is_refusal(e))),
        wait=pause_s,
        before_sleep=warn,
    )

    async def attempt() -> T:  # tenacity awaits only what it sees to be a coroutine function
        return await call()

    return await attempts(attempt)


def _error_of(state: RetryCallState) -> BaseException:
    assert state.outcome is not None
    error = state.outcome.exception()
    assert error is not None
    return error


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

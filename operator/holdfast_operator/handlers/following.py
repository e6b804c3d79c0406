"""One job's prefix of the rendezvous: followed while the job is there, and emptied once it is gone."""

import asyncio
import logging
import time
from collections.abc import Callable

from holdfast.errors import StoreError
from holdfast.model.keys import Keys
from holdfast.ports.store import Delete, Store
from holdfast.stores.changes import changes_of
from holdfast_operator.handlers.run_fold import RunFold

log = logging.getLogger(__name__)
Changes = tuple[tuple[str, bytes | None], ...]
_REFUSED_PAUSE_S = 5.0
_SLOW_S = 30.0  # a job's keys are read within a second
# etcd takes 128 operations a transaction unless told otherwise.
_DELETES = 100


class Follower:
    """`changed(is_news)` is told of whatever is seen; without news it is only progress."""

    def __init__(self, keys: Keys, fold: RunFold, changed: Callable[[bool], None]) -> None:
        self.keys, self.fold = keys, fold
        self.is_current = False  # what the fold holds is what stands
        self.trouble = ""  # why it cannot be read, in words
        self._changed = changed
        self._standing: set[str] = set()  # keys, as far as it is read
        self._is_left = asyncio.Event()  # no agent of the job is alive

    async def run(self, store: Store) -> None:
        """Until cancelled: all is read anew, whatever was read before."""
        alarm = asyncio.get_running_loop().call_later(_SLOW_S, self._slow)
        try:
            await self._try_for_ever(store)
        finally:
            alarm.cancel()

    async def _try_for_ever(self, store: Store) -> None:
        while True:
            try:
                await self._follow(store)
            except StoreError as error:
                log.error("run.refused", extra={"job": self.keys.job, "error": str(error)})
                self._told(str(error))
            except Exception as error:  # a bug that one job's records show must not stop all the others
                log.exception("run.broken", extra={"job": self.keys.job})
                self._told(f"what stands there cannot be read: {error!r}")
            await asyncio.sleep(_REFUSED_PAUSE_S)

    async def empty(self, store: Store) -> None:
        """Delete all of the job's keys, once none of its agents is alive.

        Raises: StoreError: the store is away, or refuses.
        """
        await self._is_left.wait()
        while True:
            standing = await store.get_prefix(self.keys.prefix)
            if not standing.kvs:
                return
            await store.transact([], [Delete(key=kv.key) for kv in standing.kvs[:_DELETES]])

    async def _follow(self, store: Store) -> None:
        is_first = True
        async for changes in changes_of(store, self.keys.prefix):
            if is_first:
                is_first, changes = False, (*self._gone(changes), *changes)
            self._note(changes)
            is_news = self.fold.see(changes, time.time())
            (self._is_left.clear if self.fold.leased else self._is_left.set)()
            if not self.is_current:
                self.is_current, is_news = True, True
                self.trouble = ""
            if changes or is_news:
                self._changed(is_news)

    def _gone(self, standing: Changes) -> Changes:
        """What was read before and does not stand any more."""
        return tuple((key, None) for key in sorted(self._standing - {key for key, _ in standing}))

    def _note(self, changes: Changes) -> None:
        for key, value in changes:
            (self._standing.discard if value is None else self._standing.add)(key)

    def _slow(self) -> None:
        """Who asks is not to wait in silence."""
        if not self.is_current and not self.trouble:
            self._told(f"what stands there could not be read within {_SLOW_S:g} s")

    def _told(self, trouble: str) -> None:
        self.is_current = False
        if trouble != self.trouble:
            self.trouble = trouble
            self._changed(True)

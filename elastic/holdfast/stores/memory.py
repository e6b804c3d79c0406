"""A `Keyspace` under asyncio, in this process: the loop's clock, lease expiry by timer, and watches.

Apart from waiting watches no call yields to the loop: calls take effect in the order they are made, whole.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

from holdfast.errors import StoreUnavailableError
from holdfast.ports.store import Compare, KeyValue, Operation, Snapshot, TxnResult, WatchEvent
from holdfast.stores.keyspace import Keyspace
from holdfast.stores.polling import Polled, PolledWatch

log = logging.getLogger(__name__)

# A lease found overdue by more than this means that the loop stood still (a stopped process, a blocking
# call). Its holder's renewals were waiting unread, so leases are renewed rather than expired.
_STALL_S = 1.0

# One poll gathers about this much, so that a reply of many revisions stays a modest frame.
_POLL_BYTES_MAX = 1 << 20


class MemoryStore:
    """Build it inside a running event loop, and use it from that loop alone."""

    def __init__(self, keyspace: Keyspace | None = None) -> None:
        self._keyspace = keyspace if keyspace is not None else Keyspace()
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        # A keyspace that was served before: nobody could renew in between.
        self._keyspace.renew_leases(now_s=self._loop.time())
        self._arm()

    async def get(self, key: str) -> KeyValue | None:
        with self._turn() as keyspace:
            return keyspace.get(key)

    async def get_prefix(self, prefix: str) -> Snapshot:
        with self._turn() as keyspace:
            return keyspace.get_prefix(prefix)

    async def put(self, key: str, value: bytes, lease: int = 0) -> int:
        with self._turn() as keyspace:
            return keyspace.put(key, value, lease)

    async def delete(self, key: str) -> bool:
        with self._turn() as keyspace:
            return keyspace.delete(key)

    async def transact(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        with self._turn() as keyspace:
            return keyspace.transact(compares, then, otherwise)

    async def grant(self, ttl_s: float) -> int:
        with self._turn() as keyspace:
            return keyspace.grant(ttl_s, now_s=self._loop.time())

    async def keep_alive(self, lease: int) -> float:
        with self._turn() as keyspace:
            return keyspace.keep_alive(lease, now_s=self._loop.time())

    async def revoke(self, lease: int) -> None:
        with self._turn() as keyspace:
            keyspace.revoke(lease)

    def watch(self, prefix: str, from_revision: int) -> AsyncIterator[tuple[WatchEvent, ...]]:
        async def poll(revision: int) -> Polled:
            return await self.poll(prefix, revision, wait_s=None)

        return PolledWatch(poll, from_revision)

    async def poll(self, prefix: str, from_revision: int, *, wait_s: float | None) -> Polled:
        """Events under `prefix` at or after `from_revision`; none only if `wait_s` passed without any.

        Raises:
            CompactedError: `from_revision` is no longer kept.
        """
        polled = Polled(batches=(), next_revision=from_revision)
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    with self._turn() as keyspace:
                        polled = _gather(keyspace, prefix, polled.next_revision)
                    if polled.batches:
                        return polled
                    await self._changed.wait()
        except TimeoutError:
            return polled

    async def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._announce()

    @contextmanager
    def _turn(self) -> Iterator[Keyspace]:
        """One operation on the keyspace, which has forgotten dead leases before and tells the watches after."""
        if self._closed:
            raise StoreUnavailableError("the store was closed in this process; open another")
        before = self._keyspace.revision
        self._expire()
        try:
            yield self._keyspace
        finally:
            self._arm()
            if self._keyspace.revision != before:
                self._announce()

    def _expire(self) -> None:
        now_s = self._loop.time()
        due_s = self._keyspace.next_expiry()
        if due_s is None or due_s > now_s:
            return
        if now_s - due_s > _STALL_S:
            log.warning("store.stalled", extra={"stalled_s": now_s - due_s})
            self._keyspace.renew_leases(now_s=now_s)
            return
        for lease in self._keyspace.expire(now_s):
            log.info("store.lease_expired", extra={"lease": lease})

    def _arm(self) -> None:
        """Have a timer no later than the next expiry; one that comes early looks and arms the next."""
        due_s = self._keyspace.next_expiry()
        if due_s is None or (self._timer is not None and self._timer.when() <= due_s):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        with self._turn():
            pass

    def _announce(self) -> None:
        """Wake all who wait. The next to wait must find an event that is not set, hence a new one."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _gather(keyspace: Keyspace, prefix: str, from_revision: int) -> Polled:
    batches: list[tuple[WatchEvent, ...]] = []
    gathered_bytes = 0
    for events in keyspace.history(prefix, from_revision):
        batches.append(events)
        gathered_bytes += sum(len(event.kv.key) + len(event.kv.value) for event in events)
        if gathered_bytes > _POLL_BYTES_MAX:
            return Polled(batches=tuple(batches), next_revision=events[0].revision + 1)
    return Polled(batches=tuple(batches), next_revision=max(from_revision, keyspace.revision + 1))

"""The lease of one node: renewed every third of its life, taken anew when it ran out, and what its age permits.

Rule: workers may vote for as long as the lease was renewed within `orphan_s`, counted from before the renewal was asked
for, by a clock that goes on while the machine is suspended. After that they may not vote in any generation that was
known by then, whatever comes later (`control.fencing`).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from holdfast.agent.following import StoreTrouble, surely
from holdfast.errors import LeaseExpiredError, StoreError
from holdfast.ports.store import Store

log = logging.getLogger(__name__)
# After a store that gave no answer, where the next attempt has nothing else to wait for.
_PAUSE_S = 1.0


def boot_time_s() -> float:
    """Seconds since this machine was started; the same for all its processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class NodeLease:
    """`id` is 0 before `take`. `permit` is told until when workers may vote, `lapsed` that they may no more."""

    def __init__(
        self,
        store: Store,
        ttl_s: float,
        orphan_s: float,
        permit: Callable[[float], None],
        lapsed: Callable[[str], None],
    ) -> None:
        self.id = 0
        self._store, self._ttl_s, self._orphan_s = store, ttl_s, orphan_s
        self._permit, self._lapsed = permit, lapsed
        self._until_s = 0.0
        self._has_lapsed = True
        self._gone = asyncio.Event()

    async def take(self) -> int:
        """A new lease, to be made the node's own by `use`. Raises: StoreError: the first one is refused."""
        return await surely(lambda: self._store.grant(self._ttl_s), "lease", patient=self.id != 0)

    def use(self, lease: int, asked_s: float) -> None:
        """`asked_s`: the boot time before it was asked for, or something it depends on was."""
        self.id = lease
        self._renewed(asked_s)

    def lose(self) -> None:
        """The node's record is gone from the store, though the lease may live: begin anew."""
        self._gone.set()

    async def keep(self, anew: Callable[[], Awaitable[None]]) -> None:
        """For ever. `anew` takes a new lease, and registers the node under it."""
        trouble = StoreTrouble("lease")
        while True:
            await self._wait(self._ttl_s / 3)
            asked_s = boot_time_s()
            try:
                if self._gone.is_set():
                    await self._store.revoke(self.id)
                    raise LeaseExpiredError(f"the record of lease {self.id} was deleted")
                await self._store.keep_alive(self.id)
                self._renewed(asked_s)
            except LeaseExpiredError:
                log.warning("lease.expired", extra={"lease": self.id})
                self.look()
                await anew()
                # Only now: what was heard meanwhile is the end of what hung on the lease before.
                self._gone.clear()
            except StoreError as error:
                trouble.say(error)
                await asyncio.sleep(min(_PAUSE_S, self._ttl_s / 10))

    async def watch(self) -> None:
        """For ever: see when it has become too old."""
        while True:
            await asyncio.sleep(self._ttl_s / 3)
            self.look()

    def look(self) -> None:
        if not self._has_lapsed and boot_time_s() > self._until_s:
            self._has_lapsed = True
            self._lapsed(f"no contact to the store for {self._orphan_s:.0f} s")

    def _renewed(self, asked_s: float) -> None:
        self.look()  # before it is young again: a machine that was suspended finds both at once
        self._has_lapsed, self._until_s = False, asked_s + self._orphan_s
        self._permit(self._until_s)

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._gone.wait(), seconds)
        except TimeoutError:
            return

"""The store as its clients meet it: a real keyspace behind a network, at times away, slow, or failing over.

A call that raises StoreUnavailableError may have taken effect: its request arrived and its answer did not.
"""

from collections.abc import Callable, Iterator, Sequence

from holdfast.errors import StoreUnavailableError
from holdfast.ports.store import Compare, KeyValue, Operation, Snapshot, WatchEvent
from holdfast.simulator.network import STORE, Channel, Network
from holdfast.stores.keyspace import Keyspace

# Leases are ended by the world, which knows who could have renewed.
_NEVER_S = 1e9
_SLOW_S = 2.0
# Between a call that failed and the next attempt.
BACK_OFF_S = 0.3


class StoreSide:
    """Mutable. `away`, `slow`, `failing_over`: how many disturbances of that kind are in force."""

    def __init__(self, network: Network, watcher: Callable[[WatchEvent], None]) -> None:
        self.keyspace = Keyspace()
        self.away = self.slow = self.failing_over = 0
        self.writes = 0
        self._network, self._watcher = network, watcher
        self._leases: set[int] = set()

    # Who can speak with it.

    def hears(self, node: str) -> bool:
        """Whether a request of that node arrives; while not, its clients try in vain."""
        return not self.away and self._network.is_open(node, STORE)

    def serves(self, node: str) -> bool:
        """Whether a stream to that node flows: its watches, its lease."""
        return not self.away and self._network.joins(node, STORE)

    def pause(self, channel: Channel, now_s: float) -> None:
        """A call was made: its answer takes a while."""
        slow_s = self._network.random.random() * _SLOW_S if self.slow else 0.0
        channel.ready_at_s = now_s + self._network.delay_s() + slow_s

    def back_off(self, channel: Channel, now_s: float) -> None:
        """The call was in vain: it is made again a little later."""
        channel.ready_at_s = max(channel.ready_at_s, now_s + BACK_OFF_S)

    # Calls. `by`: the node that makes the call; None for what is written from outside.

    def get(self, key: str, *, by: str) -> KeyValue | None:
        self._request(by)
        self._answer(by)
        return self.keyspace.get(key)

    def get_prefix(self, prefix: str, *, by: str) -> Snapshot:
        self._request(by)
        self._answer(by)
        return self.keyspace.get_prefix(prefix)

    def transact(self, compares: Sequence[Compare], then: Sequence[Operation], *, by: str | None = None) -> bool:
        """Raises: LeaseExpiredError, StoreUnavailableError."""
        self._request(by)
        before = self.keyspace.revision
        succeeded = self.keyspace.transact(compares, then).succeeded
        self._tell(before)
        self._answer(by)
        return succeeded

    def grant(self, *, by: str | None) -> int:
        self._request(by)
        lease = self.keyspace.grant(_NEVER_S, now_s=0.0)
        self._leases.add(lease)
        self._answer(by)
        return lease

    def revoke(self, lease: int, *, by: str | None = None) -> None:
        self._request(by)
        before = self.keyspace.revision
        self.keyspace.revoke(lease)
        self._leases.discard(lease)
        self._tell(before)
        self._answer(by)

    def is_leased(self, lease: int) -> bool:
        return lease in self._leases

    def history(self, prefix: str, revision: int) -> Iterator[tuple[WatchEvent, ...]]:
        return self.keyspace.history(prefix, revision)

    def _request(self, by: str | None) -> None:
        if by is None:
            return
        lost = 0.5 if self.failing_over else self._network.weather.calls_lost
        if not self.hears(by) or self._network.happens(lost):
            raise StoreUnavailableError(f"no answer to {by}; nothing was done")

    def _answer(self, by: str | None) -> None:
        if by is None:
            return
        lost = 0.3 if self.failing_over else self._network.weather.calls_lost
        if not self._network.is_open(STORE, by) or self._network.happens(lost):
            raise StoreUnavailableError(f"no answer to {by}; it was done")

    def _tell(self, before: int) -> None:
        for changes in self.keyspace.history("", before + 1):
            self.writes += 1
            for change in changes:
                self._watcher(change)

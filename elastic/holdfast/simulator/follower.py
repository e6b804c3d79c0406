"""A client's watch of the job: holdfast.agent.following without asyncio. An agent has one, its term another.

It resumes where it was after every silence. Where history was compacted it reads all anew, and tells what changed or
is gone since, but for states in between.
"""

from holdfast.errors import CompactedError, StoreUnavailableError
from holdfast.model.keys import Keys
from holdfast.ports.store import KeyValue, Snapshot, WatchEvent
from holdfast.simulator.network import Channel
from holdfast.simulator.storeside import StoreSide

# A key, and what it holds by now; None where it is gone.
Change = tuple[str, KeyValue | None]


class Follower:
    """`revision`: the newest one seen, 0 before the store was read. `behind`: history it needed was compacted."""

    def __init__(self, store: StoreSide, keys: Keys, node: str) -> None:
        self.channel = Channel()
        self.revision = 0
        self.behind = False
        self._store, self._keys, self._node = store, keys, node
        self._known: dict[str, int] = {}  # revision of each key that is there

    def can_read(self, now_s: float) -> bool:
        return now_s >= self.channel.ready_at_s and self._store.hears(self._node)

    def read(self, now_s: float) -> Snapshot:
        """All there is. Raises: StoreUnavailableError."""
        self._store.pause(self.channel, now_s)
        try:
            snapshot = self._store.get_prefix(self._keys.prefix, by=self._node)
        except StoreUnavailableError:
            self._store.back_off(self.channel, now_s)
            raise
        self.revision, self.behind = snapshot.revision, False
        self._known = {kv.key: kv.mod_revision for kv in snapshot.kvs}
        return snapshot

    def catch_up(self, now_s: float) -> list[Change]:
        """Raises: StoreUnavailableError."""
        before = self._known
        snapshot = self.read(now_s)
        gone: list[Change] = [(key, None) for key in sorted(before.keys() - self._known.keys())]
        kvs = sorted(snapshot.kvs, key=lambda kv: kv.mod_revision)
        return gone + [(kv.key, kv) for kv in kvs if before.get(kv.key) != kv.mod_revision]

    def can_watch(self, now_s: float) -> bool:
        """Whether there may be something to fetch."""
        if not self.revision or self.behind or self.revision >= self._store.keyspace.revision:
            return False
        return now_s >= self.channel.ready_at_s and self._store.serves(self._node)

    def peek(self) -> tuple[WatchEvent, ...]:
        """The next revision that changed anything of the job; nothing if there is none, or it fell `behind`."""
        try:
            for changes in self._store.history(self._keys.prefix, self.revision + 1):
                return changes
        except CompactedError:
            self.behind = True
            return ()
        self.revision = self._store.keyspace.revision
        return ()

    def take(self, events: tuple[WatchEvent, ...], now_s: float) -> list[Change]:
        """Fetch those."""
        self._store.pause(self.channel, now_s)
        return self.skip(events)

    def skip(self, events: tuple[WatchEvent, ...]) -> list[Change]:
        """Those are of no interest: no time is spent on them."""
        self.revision = events[0].revision
        changes: list[Change] = [(event.kv.key, event.kv if event.kind == "put" else None) for event in events]
        for key, kv in changes:
            if kv is None:
                self._known.pop(key, None)
            else:
                self._known[key] = kv.mod_revision
        return changes

"""The store's state machine, pure and deterministic: no clock, no randomness, no I/O.

Rule: revisions grow by one per transaction that writes, so history has no gaps and a watch is a position
in it. Time enters only as `now_s`; a lease that is due stays until its owner's `expire`.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from holdfast.errors import CompactedError, LeaseExpiredError
from holdfast.ports.store import (
    Compare,
    Delete,
    KeyValue,
    Operation,
    Put,
    Snapshot,
    TxnResult,
    WatchEvent,
    require_distinct_keys,
    require_key,
)


@dataclass(slots=True, kw_only=True)
class _Lease:
    ttl_s: float
    deadline_s: float
    keys: set[str] = field(default_factory=set)


class Keyspace:
    """What etcd keeps: keys, leases, and the last `history_revisions_max` revisions for watches.

    Like etcd's, an empty keyspace is at revision 1. Lease ids count from 1 and are never used twice.
    """

    def __init__(self, *, history_revisions_max: int = 10_000) -> None:
        if history_revisions_max < 1:
            raise ValueError(f"history_revisions_max is {history_revisions_max}; keep at least 1")
        self._history_revisions_max = history_revisions_max
        self._revision = 1
        self._oldest_revision = 1
        self._history: dict[int, tuple[WatchEvent, ...]] = {}
        self._kvs: dict[str, KeyValue] = {}
        self._sorted_keys: list[str] = []
        self._leases: dict[int, _Lease] = {}
        self._leases_granted = 0
        # (deadline_s, lease); an entry whose lease has another deadline by now, or is gone, is void.
        self._deadlines: list[tuple[float, int]] = []

    @property
    def revision(self) -> int:
        return self._revision

    @property
    def oldest_revision(self) -> int:
        """The first revision a watch can still start from."""
        return self._oldest_revision

    def get(self, key: str) -> KeyValue | None:
        require_key(key)
        return self._kvs.get(key)

    def get_prefix(self, prefix: str) -> Snapshot:
        kvs: list[KeyValue] = []
        for index in range(bisect_left(self._sorted_keys, prefix), len(self._sorted_keys)):
            key = self._sorted_keys[index]
            if not key.startswith(prefix):
                break
            kvs.append(self._kvs[key])
        return Snapshot(revision=self._revision, kvs=tuple(kvs))

    def put(self, key: str, value: bytes, lease: int = 0) -> int:
        return self._write((Put(key=key, value=value, lease=lease),))

    def delete(self, key: str) -> bool:
        before = self._revision
        return self._write((Delete(key=key),)) > before

    def transact(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        require_distinct_keys(then)
        require_distinct_keys(otherwise)
        succeeded = all(self._holds(compare) for compare in compares)
        return TxnResult(succeeded=succeeded, revision=self._write(then if succeeded else otherwise))

    def grant(self, ttl_s: float, *, now_s: float) -> int:
        if not 0 < ttl_s < math.inf:
            raise ValueError(f"ttl_s is {ttl_s}; give a positive number of seconds")
        self._leases_granted += 1
        lease = self._leases_granted
        self._leases[lease] = _Lease(ttl_s=ttl_s, deadline_s=now_s + ttl_s)
        heappush(self._deadlines, (now_s + ttl_s, lease))
        return lease

    def keep_alive(self, lease: int, *, now_s: float) -> float:
        """Raises LeaseExpiredError once the lease is due, even if `expire` has not come round to it."""
        held = self._leases.get(lease)
        if held is None or held.deadline_s <= now_s:
            raise _lease_gone(lease)
        held.deadline_s = now_s + held.ttl_s
        heappush(self._deadlines, (held.deadline_s, lease))
        return held.ttl_s

    def revoke(self, lease: int) -> None:
        held = self._leases.get(lease)
        if held is not None:
            # Sorted so that a replay emits the same events in the same order.
            self._write(tuple(Delete(key=key) for key in sorted(held.keys)))
            del self._leases[lease]

    def expire(self, now_s: float) -> tuple[int, ...]:
        """Revoke what is due, soonest first, each lease in a revision of its own; the leases that ended."""
        ended: list[int] = []
        while (due_s := self.next_expiry()) is not None and due_s <= now_s:
            lease = self._deadlines[0][1]
            self.revoke(lease)
            ended.append(lease)
        return tuple(ended)

    def next_expiry(self) -> float | None:
        """When the soonest lease is due, in the time of `now_s`; None without leases."""
        while self._deadlines:
            deadline_s, lease = self._deadlines[0]
            held = self._leases.get(lease)
            if held is not None and held.deadline_s == deadline_s:
                return deadline_s
            heappop(self._deadlines)
        return None

    def renew_leases(self, *, now_s: float) -> None:
        """Give every lease its full time again: while the store was away no holder could renew (etcd's Promote)."""
        for held in self._leases.values():
            held.deadline_s = now_s + held.ttl_s
        self._deadlines = [(held.deadline_s, lease) for lease, held in self._leases.items()]
        heapify(self._deadlines)

    def history(self, prefix: str, from_revision: int) -> Iterator[tuple[WatchEvent, ...]]:
        """Changes under `prefix` since, one tuple per revision that has any. Drain it before the next write.

        Raises:
            CompactedError: `from_revision` is older than `oldest_revision`.
        """
        if from_revision < 1:
            raise ValueError(f"from_revision is {from_revision}; the first revision is 1")
        if from_revision < self._oldest_revision:
            raise CompactedError(
                f"revision {from_revision} is compacted, the oldest kept is {self._oldest_revision}; "
                f"read prefix {prefix!r} again and watch from the snapshot's revision + 1"
            )
        return self._replay(prefix, from_revision)

    def compact(self, revision: int) -> None:
        """Forget the history before `revision`; what is there already stays as it is."""
        if revision > self._revision + 1:
            raise ValueError(f"revision is {revision}; the newest that can be compacted to is {self._revision + 1}")
        for forgotten in range(self._oldest_revision, revision):
            self._history.pop(forgotten, None)
        self._oldest_revision = max(self._oldest_revision, revision)

    def _replay(self, prefix: str, from_revision: int) -> Iterator[tuple[WatchEvent, ...]]:
        for revision in range(from_revision, self._revision + 1):
            events = self._history.get(revision, ())
            matching = tuple(event for event in events if event.kv.key.startswith(prefix))
            if matching:
                yield matching

    def _holds(self, compare: Compare) -> bool:
        kv = self._kvs.get(compare.key)
        if compare.exists is not None:
            return compare.exists == (kv is not None)
        if compare.value is not None:
            return kv is not None and kv.value == compare.value
        if compare.create_revision is not None:
            return compare.create_revision == (kv.create_revision if kv else 0)
        if compare.mod_revision is not None:
            return compare.mod_revision == (kv.mod_revision if kv else 0)
        return compare.lease == (kv.lease if kv else 0)

    def _write(self, operations: Sequence[Operation]) -> int:
        """The revision afterwards. Leases are checked before anything changes: all of it or nothing."""
        for operation in operations:
            if isinstance(operation, Put) and operation.lease and operation.lease not in self._leases:
                raise _lease_gone(operation.lease)
        revision = self._revision + 1
        applied = (self._apply(operation, revision) for operation in operations)
        events = tuple(event for event in applied if event is not None)
        if events:
            self._revision = revision
            self._history[revision] = events
            self.compact(revision + 1 - self._history_revisions_max)
        return self._revision

    def _apply(self, operation: Operation, revision: int) -> WatchEvent | None:
        key = operation.key
        before = self._kvs.get(key)
        if before is not None and before.lease:
            self._leases[before.lease].keys.discard(key)
        if isinstance(operation, Put):
            return self._apply_put(operation, before, revision)
        if before is None:
            return None
        del self._kvs[key]
        del self._sorted_keys[bisect_left(self._sorted_keys, key)]
        gone = KeyValue(key=key, value=b"", create_revision=0, mod_revision=revision, version=0, lease=0)
        return WatchEvent(kind="delete", kv=gone, revision=revision)

    def _apply_put(self, put: Put, before: KeyValue | None, revision: int) -> WatchEvent:
        if before is None:
            insort(self._sorted_keys, put.key)
        if put.lease:
            self._leases[put.lease].keys.add(put.key)
        kv = KeyValue(
            key=put.key,
            value=put.value,
            create_revision=before.create_revision if before else revision,
            mod_revision=revision,
            version=before.version + 1 if before else 1,
            lease=put.lease,
        )
        self._kvs[put.key] = kv
        return WatchEvent(kind="put", kv=kv, revision=revision)


def _lease_gone(lease: int) -> LeaseExpiredError:
    return LeaseExpiredError(f"lease {lease} has expired, was revoked or never was; grant a new one")

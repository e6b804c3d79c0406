"""The rendezvous store: etcd's contract, and every adapter keeps exactly this one.

Each transaction that writes anything takes the next revision; all its events share that revision. A
transaction that writes nothing (a failed compare, a delete of what is absent) takes none.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValue:
    """A key as of one revision; `lease` 0 means none. `version` counts puts since the key was created."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchEvent:
    """One change. Of a deletion, `kv` holds only the key and, as `mod_revision`, the revision."""

    kind: Literal["put", "delete"]
    kv: KeyValue
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A consistent read, sorted by key; watch from `revision + 1` to miss nothing after it."""

    revision: int
    kvs: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare:
    """One condition on one key: exactly one of the fields after `key` is given.

    An absent key has revisions and lease 0, and equals no value, not even the empty one.
    """

    key: str
    exists: bool | None = None
    create_revision: int | None = None
    mod_revision: int | None = None
    value: bytes | None = None
    lease: int | None = None

    def __post_init__(self) -> None:
        require_key(self.key)
        conditions = (self.exists, self.create_revision, self.mod_revision, self.value, self.lease)
        given = sum(condition is not None for condition in conditions)
        if given != 1:
            raise ValueError(
                f"Compare on key {self.key!r} has {given} conditions; give exactly one of "
                "exists, create_revision, mod_revision, value, lease"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """Set a key; it hangs on `lease` alone from now on, on none if that is 0."""

    key: str
    value: bytes
    lease: int = 0

    def __post_init__(self) -> None:
        require_key(self.key)
        if self.lease < 0:
            raise ValueError(f"lease of Put on key {self.key!r} is {self.lease}; give a granted lease, or 0 for none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Remove a key; no event and no revision if it is absent."""

    key: str

    def __post_init__(self) -> None:
        require_key(self.key)


Operation: TypeAlias = Put | Delete


@dataclass(frozen=True, slots=True, kw_only=True)
class TxnResult:
    """`revision` is the store's after the transaction: the transaction's own, if it wrote anything."""

    succeeded: bool
    revision: int


def require_key(key: str) -> None:
    """Raises ValueError if `key` is empty (a prefix may be)."""
    if not key:
        raise ValueError("key is ''; give at least one character")


def require_distinct_keys(operations: Sequence[Operation]) -> None:
    """Raises ValueError if a key occurs twice: within one revision the order of its changes would be moot."""
    seen: set[str] = set()
    for operation in operations:
        if operation.key in seen:
            raise ValueError(f"key {operation.key!r} occurs twice in one transaction; name each key once")
        seen.add(operation.key)


class Store(Protocol):
    """A linearizable key-value store with leases and watches.

    Every method raises StoreUnavailableError when the store gives no answer in time, and after `close`.
    A write that raised it may or may not have taken effect, or take effect yet: read before repeating it.
    ValueError means wrong arguments, and that nothing was done.
    """

    async def get(self, key: str) -> KeyValue | None: ...

    async def get_prefix(self, prefix: str) -> Snapshot: ...

    async def put(self, key: str, value: bytes, lease: int = 0) -> int:
        """The revision of the write.

        Raises:
            LeaseExpiredError: `lease` is gone; nothing was written.
        """
        ...

    async def delete(self, key: str) -> bool:
        """Whether the key was there."""
        ...

    async def transact(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        """If every compare holds apply `then`, else `otherwise`: all of it, in one revision.

        Raises:
            LeaseExpiredError: a lease named in the branch taken is gone; nothing was written.
            ValueError: a branch names a key twice.
        """
        ...

    async def grant(self, ttl_s: float) -> int:
        """A new lease, which lives at least `ttl_s` (etcd rounds up to whole seconds) after its last renewal."""
        ...

    async def keep_alive(self, lease: int) -> float:
        """Renew once; the seconds it now has.

        Raises:
            LeaseExpiredError: too late; its keys are deleted or about to be.
        """
        ...

    async def revoke(self, lease: int) -> None:
        """End the lease and delete its keys, in one revision. A lease already gone is no error."""
        ...

    def watch(self, prefix: str, from_revision: int) -> AsyncIterator[tuple[WatchEvent, ...]]:
        """Changes under `prefix` at or after `from_revision` (at least 1): one tuple per revision, in order.

        None is lost, none repeated, whatever happens to the connection. Cancelling a wait for the next
        tuple loses nothing: the iterator may be asked again. It is for one consumer, and needs no closing.

        Raises (from the iterator):
            CompactedError: history that the watch still needed is gone; read the prefix again and watch
                from the snapshot's revision + 1.
        """
        ...

    async def close(self) -> None:
        """Let go of the connection; running watches raise StoreUnavailableError. Leases are not revoked."""
        ...

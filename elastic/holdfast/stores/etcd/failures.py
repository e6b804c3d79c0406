"""What etcd's and gRPC's errors mean to us: which of our errors, and whether to ask again.

A status says who sent it only by its text: etcd's own begin with "etcdserver:". Rule: a failed write counts as undone
only if etcd says that it was turned away at the door; all else may have taken effect.
"""

import grpc
from grpc.aio import AioRpcError

from holdfast.errors import CompactedError, LeaseExpiredError, RequestError, StoreError, StoreUnavailableError

_TEMPORARY = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        # What a call gets whose connection broke, depending on the moment.
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNKNOWN,
    }
)

_NO_LEADER = "etcdserver: no leader"
_TOO_MANY_REQUESTS = "etcdserver: too many requests"
# A member forgets the tokens it gave when it restarts or after some minutes, and all of them when rights change.
_STALE_TOKENS = ("etcdserver: invalid auth token", "etcdserver: revision of auth store is old")
_LEASE_GONE = "etcdserver: requested lease not found"
_LEASE_TAKEN = "etcdserver: lease already exists"
_COMPACTED = "etcdserver: mvcc: required revision has been compacted"

_REMEDIES = (
    ("etcdserver: authentication failed", "give the right user and password"),
    ("etcdserver: user name is empty", "this etcd asks for user and password: give them"),
    ("etcdserver: authentication is not enabled", "this etcd has no users: leave user and password away"),
    ("etcdserver: permission denied", "grant the user's role read and write access to the prefix"),
    ("etcdserver: mvcc: database space exceeded", "compact, defragment and disarm the alarm, or raise its quota"),
)


def is_temporary(error: AioRpcError) -> bool:
    """Another attempt, or another member, may do better."""
    return error.code() in _TEMPORARY or is_turned_away(error)


def is_turned_away(error: AioRpcError) -> bool:
    """etcd refused before it did anything, for a reason that passes: also a write may be asked again."""
    return _details(error).startswith((_NO_LEADER, _TOO_MANY_REQUESTS)) or is_token_stale(error)


def is_token_stale(error: AioRpcError) -> bool:
    return _details(error).startswith(_STALE_TOKENS)


def is_lease_gone(error: AioRpcError) -> bool:
    return _details(error).startswith(_LEASE_GONE)


def is_lease_taken(error: AioRpcError) -> bool:
    return _details(error).startswith(_LEASE_TAKEN)


def translate(error: AioRpcError, what: str, where: str) -> StoreError:
    """Our error for one that no repetition mends; `what` was asked of `where`."""
    details = _details(error)
    if is_lease_gone(error):
        return LeaseExpiredError(f"the lease named in {what} has expired, was revoked or never was; grant a new one")
    if details.startswith(_COMPACTED):
        return CompactedError(f"{what}: {details}; read again")
    remedy = next((remedy for prefix, remedy in _REMEDIES if details.startswith(prefix)), None)
    if remedy is not None:
        return StoreError(f"etcd at {where} refused {what}: {details}; {remedy}")
    if is_temporary(error):
        return StoreUnavailableError(
            f"etcd at {where} broke off {what}: {describe(error)}; a write may or may not have taken effect, "
            "read before repeating it"
        )
    if error.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE} or "larger than max" in details:
        return RequestError(
            f"etcd at {where} cannot take {what}: {details}; write less at a time, read a narrower prefix"
        )
    return StoreError(f"etcd at {where} refused {what}: {describe(error)}")


def describe(error: AioRpcError) -> str:
    return f"{error.code().name} {_details(error)}".strip()


def _details(error: AioRpcError) -> str:
    return error.details() or ""

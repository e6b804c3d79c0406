"""Our keys, values and conditions as etcd's messages and back, and the key prefix, which ends here.

Keys are UTF-8. A foreign key under our prefix that is not is still read (surrogate escapes), and stays itself.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from aetcd import rpc

from holdfast.ports.store import Compare, KeyValue, Operation, Put, WatchEvent


class Messages:
    """Builds requests on keys behind `prefix`, and reads replies without it."""

    def __init__(self, prefix: str) -> None:
        self._prefix = _to_bytes(prefix)

    def range_of_key(self, key: str) -> Any:
        return rpc.RangeRequest(key=self._key(key))

    def range_of_prefix(self, prefix: str) -> Any:
        """All keys that begin with `prefix`, in the order of their bytes, which is that of their characters."""
        first, end = self._interval(prefix)
        return rpc.RangeRequest(key=first, range_end=end)

    def put(self, put: Put) -> Any:
        return rpc.PutRequest(key=self._key(put.key), value=put.value, lease=put.lease)

    def delete(self, key: str) -> Any:
        return rpc.DeleteRangeRequest(key=self._key(key))

    def txn(self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation]) -> Any:
        return rpc.TxnRequest(
            compare=[self._compare(compare) for compare in compares],
            success=[self._operation(operation) for operation in then],
            failure=[self._operation(operation) for operation in otherwise],
        )

    def watch(self, prefix: str, from_revision: int) -> Any:
        """`fragment`: a large revision may come in parts, so that no reply exceeds what a client takes."""
        first, end = self._interval(prefix)
        return rpc.WatchRequest(
            create_request=rpc.WatchCreateRequest(
                key=first, range_end=end, start_revision=from_revision, progress_notify=True, fragment=True
            )
        )

    def key_value(self, raw: Any) -> KeyValue:
        return KeyValue(
            key=_to_text(raw.key.removeprefix(self._prefix)),
            value=raw.value,
            create_revision=raw.create_revision,
            mod_revision=raw.mod_revision,
            version=raw.version,
            lease=raw.lease,
        )

    def events(self, raw_events: Iterable[Any]) -> tuple[WatchEvent, ...]:
        return tuple(self._event(raw) for raw in raw_events)

    def _event(self, raw: Any) -> WatchEvent:
        kind: Literal["put", "delete"] = "put" if raw.type == rpc.Event.PUT else "delete"
        return WatchEvent(kind=kind, kv=self.key_value(raw.kv), revision=raw.kv.mod_revision)

    def _key(self, key: str) -> bytes:
        return self._prefix + _to_bytes(key)

    def _interval(self, prefix: str) -> tuple[bytes, bytes]:
        first = self._key(prefix)
        # etcd's way to say "every key"; its keys are never empty.
        return (first, end_of_prefix(first)) if first else (b"\0", b"\0")

    def _operation(self, operation: Operation) -> Any:
        if isinstance(operation, Put):
            return rpc.RequestOp(request_put=self.put(operation))
        return rpc.RequestOp(request_delete_range=self.delete(operation.key))

    def _compare(self, compare: Compare) -> Any:
        key, equal = self._key(compare.key), rpc.Compare.EQUAL
        if compare.exists is not None:
            result = rpc.Compare.GREATER if compare.exists else equal
            return rpc.Compare(key=key, target=rpc.Compare.VERSION, result=result, version=0)
        if compare.value is not None:
            return rpc.Compare(key=key, target=rpc.Compare.VALUE, result=equal, value=compare.value)
        if compare.create_revision is not None:
            return rpc.Compare(
                key=key, target=rpc.Compare.CREATE, result=equal, create_revision=compare.create_revision
            )
        if compare.mod_revision is not None:
            return rpc.Compare(key=key, target=rpc.Compare.MOD, result=equal, mod_revision=compare.mod_revision)
        return rpc.Compare(key=key, target=rpc.Compare.LEASE, result=equal, lease=compare.lease)


def end_of_prefix(prefix: bytes) -> bytes:
    """The first key after all that begin with `prefix`; a zero byte, which etcd takes for no end, if there is none."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b"\0"


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _to_text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")

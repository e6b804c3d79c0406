"""What the embedded store's two ends say to each other: JSON in frames of four length bytes and that many more.

Rule: whatever arrives is either decoded whole or raises ProtocolError; nothing is guessed or defaulted.

    server: {"v":1, "nonce":HEX}                                            once, on connecting
    client: {"v":1, "id":N, "settled":N, "method":NAME, "args":[...]}       the first is "hello"
            {"v":1, "cancel":N}                                             no longer wants that reply
    server: {"v":1, "id":N, "result":...} or {"v":1, "id":N, "error":[KIND, MESSAGE]}

`settled`: the client will never again ask for a write with an id below it (see `Ledger`).
"""

import asyncio
import base64
import hashlib
import hmac
import json
import socket
from collections.abc import Mapping

from holdfast.errors import CompactedError, LeaseExpiredError, ProtocolError, StoreError, StoreUnavailableError
from holdfast.ports.store import Compare, Delete, KeyValue, Operation, Put, WatchEvent
from holdfast.stores.polling import Polled

SCHEMA_VERSION = 1
FRAME_BYTES_MAX = 16 << 20
# About the 1.5 MiB that etcd takes, before base64. Far below a frame, so that the events of a request
# always fit into one.
REQUEST_BYTES_MAX = 2 << 20
# What a stranger may make the other side keep in memory before the handshake is done.
HANDSHAKE_BYTES_MAX = 4 << 10

# What must not be done twice though it may be asked twice. Renewing a lease twice does no harm.
WRITES = frozenset({"put", "delete", "transact", "grant", "revoke"})

_LENGTH_BYTES = 4

# A subclass stands before its base: the first that fits is the error's kind.
_ERROR_KINDS: Mapping[str, type[Exception]] = {
    "lease_expired": LeaseExpiredError,
    "compacted": CompactedError,
    "unavailable": StoreUnavailableError,
    "refused": StoreError,
    "invalid": ValueError,
}


def encode_frame(message: Mapping[str, object], *, bytes_max: int = FRAME_BYTES_MAX) -> bytes:
    """Raises ValueError if the message is larger than `bytes_max`, or holds a number that is not finite."""
    payload = json.dumps({"v": SCHEMA_VERSION, **message}, separators=(",", ":"), allow_nan=False).encode()
    if len(payload) > bytes_max:
        raise ValueError(
            f"message of {len(payload)} bytes exceeds the {bytes_max} allowed; "
            "write smaller values or fewer at a time, read a narrower prefix"
        )
    return len(payload).to_bytes(_LENGTH_BYTES, "big") + payload


async def read_frame(reader: asyncio.StreamReader, *, bytes_max: int = FRAME_BYTES_MAX) -> dict[str, object] | None:
    """None at a clean end of the stream.

    Raises:
        ProtocolError: too long, cut short, not a JSON object, or of another schema version.
    """
    try:
        header = await reader.readexactly(_LENGTH_BYTES)
        length = int.from_bytes(header, "big")
        if length > bytes_max:
            raise ProtocolError(f"frame length is {length}; at most {bytes_max} is accepted here")
        return _decode_message(await reader.readexactly(length))
    except asyncio.IncompleteReadError as error:
        if not error.partial and error.expected == _LENGTH_BYTES:
            return None
        raise ProtocolError(f"frame was cut short after {len(error.partial)} of {error.expected} bytes") from error


def _decode_message(payload: bytes) -> dict[str, object]:
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"frame of {len(payload)} bytes is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise ProtocolError(f"frame holds a {type(message).__name__}; it must hold an object")
    if message.get("v") != SCHEMA_VERSION:
        raise ProtocolError(f"schema version is {message.get('v')!r}; this side speaks {SCHEMA_VERSION}: align them")
    return message


def set_nodelay(writer: asyncio.StreamWriter) -> None:
    """Without it a small frame can wait for the acknowledgement of the one before (Nagle), some 40 ms."""
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def prove(secret: bytes, nonce: str) -> str:
    """What a client must answer to `nonce`, to show that it knows the secret without sending it."""
    return hmac.new(secret, b"holdfast store client:" + nonce.encode(), hashlib.sha256).hexdigest()


def encode_error(error: Exception) -> list[str]:
    kind = next((kind for kind, of_kind in _ERROR_KINDS.items() if isinstance(error, of_kind)), "refused")
    return [kind, str(error)]


def decode_error(raw: object) -> Exception:
    match raw:
        case [str(kind), str(message)] if kind in _ERROR_KINDS:
            return _ERROR_KINDS[kind](message)
    raise _malformed("error", raw)


def encode_bytes(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def decode_bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ProtocolError(f"value {text[:40]!r} is not base64: {error}") from error


def encode_key_value(kv: KeyValue) -> list[object]:
    return [kv.key, encode_bytes(kv.value), kv.create_revision, kv.mod_revision, kv.version, kv.lease]


def decode_key_value(raw: object) -> KeyValue:
    match raw:
        case [str(key), str(value), int(create_revision), int(mod_revision), int(version), int(lease)]:
            return KeyValue(
                key=key,
                value=decode_bytes(value),
                create_revision=create_revision,
                mod_revision=mod_revision,
                version=version,
                lease=lease,
            )
    raise _malformed("key-value", raw)


def encode_operation(operation: Operation) -> list[object]:
    if isinstance(operation, Put):
        return ["put", operation.key, encode_bytes(operation.value), operation.lease]
    return ["delete", operation.key]


def decode_operation(raw: object) -> Operation:
    match raw:
        case ["put", str(key), str(value), int(lease)]:
            return Put(key=key, value=decode_bytes(value), lease=lease)
        case ["delete", str(key)]:
            return Delete(key=key)
    raise _malformed("operation", raw)


def encode_compare(compare: Compare) -> list[object]:
    value = None if compare.value is None else encode_bytes(compare.value)
    return [compare.key, compare.exists, compare.create_revision, compare.mod_revision, value, compare.lease]


def decode_compare(raw: object) -> Compare:
    match raw:
        case [
            str(key),
            bool() | None as exists,
            int() | None as create_revision,
            int() | None as mod_revision,
            str() | None as value,
            int() | None as lease,
        ]:
            return Compare(
                key=key,
                exists=exists,
                create_revision=create_revision,
                mod_revision=mod_revision,
                value=None if value is None else decode_bytes(value),
                lease=lease,
            )
    raise _malformed("compare", raw)


def encode_polled(polled: Polled) -> list[object]:
    batches = [[[event.kind, encode_key_value(event.kv)] for event in batch] for batch in polled.batches]
    return [batches, polled.next_revision]


def decode_polled(raw: object) -> Polled:
    match raw:
        case [list(batches), int(next_revision)]:
            return Polled(batches=tuple(map(_decode_batch, batches)), next_revision=next_revision)
    raise _malformed("poll reply", raw)


def _decode_batch(raw: object) -> tuple[WatchEvent, ...]:
    if not isinstance(raw, list):
        raise _malformed("batch of events", raw)
    return tuple(map(_decode_event, raw))


def _decode_event(raw: object) -> WatchEvent:
    match raw:
        case ["put" | "delete" as kind, raw_kv]:
            # An event's key-value is the one it made, so its mod_revision is the event's revision.
            kv = decode_key_value(raw_kv)
            return WatchEvent(kind=kind, kv=kv, revision=kv.mod_revision)
    raise _malformed("event", raw)


def _malformed(what: str, raw: object) -> ProtocolError:
    return ProtocolError(
        f"{what} is {repr(raw)[:200]}; that does not have the shape of schema version {SCHEMA_VERSION}"
    )

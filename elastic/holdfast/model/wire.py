"""Records as JSON with a schema version. Floats keep their bits (shortest repr); unknown fields are refused."""

import re
import struct
from functools import cache
from typing import Any, TypeVar

import pydantic
from pydantic import ConfigDict, TypeAdapter

from holdfast.errors import ProtocolError, VersionError

SCHEMA_VERSION = 1
_VERSION = re.compile(rb'{"v":([0-9]{1,9}),')
T = TypeVar("T")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(pydantic.with_config(ConfigDict(extra="forbid", ser_json_inf_nan="constants"))(kind))


def encode(record: object) -> bytes:
    kind: Any = type(record)
    body = _adapter(kind).dump_json(record)
    return b'{"v":%d,"body":%b}' % (SCHEMA_VERSION, body)


def decode(kind: type[T], data: bytes) -> T:
    """Raises:
    ProtocolError: not a record of that kind.
    VersionError: of another schema version.
    """
    head = b'{"v":%d,"body":' % SCHEMA_VERSION
    if not (data.startswith(head) and data.endswith(b"}")):
        found = _VERSION.match(data)
        if found is None or int(found[1]) == SCHEMA_VERSION:
            raise ProtocolError(f"not a {kind.__name__} of protocol version {SCHEMA_VERSION}: {data[:80]!r}")
        raise VersionError(
            f"{kind.__name__} of protocol version {int(found[1])}, but this Holdfast speaks version {SCHEMA_VERSION}; "
            "run the same version of Holdfast everywhere"
        )
    try:
        key: Any = kind
        record: T = _adapter(key).validate_json(data[len(head) : -1])
    except pydantic.ValidationError as error:
        raise ProtocolError(f"not a {kind.__name__}: {error.errors(include_url=False)[0]}") from error
    return record


def encode_message(message: object) -> bytes:
    """A message with its type's name, for a channel that carries several types."""
    return type(message).__name__.encode() + b" " + encode(message)


def decode_message(kinds: dict[str, type[T]], data: bytes) -> T:
    """Raises: ProtocolError: a type that is not in `kinds`, or a malformed body."""
    name, _, body = data.partition(b" ")
    kind = kinds.get(name.decode(errors="replace"))
    if kind is None:
        raise ProtocolError(f"unexpected message {name[:40]!r}; expected one of {sorted(kinds)}")
    return decode(kind, body)


FRAME_HEAD = struct.Struct("<I")
# The largest is a Start of thousands of slots.
FRAME_BYTES_MAX = 64 << 20


def check_frame_size(size: int) -> None:
    """Raises: ProtocolError: no message is as long as that."""
    if size > FRAME_BYTES_MAX:
        raise ProtocolError(f"a frame of {size} bytes; at most {FRAME_BYTES_MAX} are accepted")


def frame(data: bytes) -> bytes:
    """`data` behind its length: one message on a stream."""
    return FRAME_HEAD.pack(len(data)) + data

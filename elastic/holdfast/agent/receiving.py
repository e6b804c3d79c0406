"""One blob from one connection into memory of ours, in a thread: HTTP/1.1 as agents speak it, and no more of it.

The kernel writes where the bytes are to lie, a large piece at a time, and each is hashed while it is in the cache.
"""

import http.client
import io
import re
import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message

from holdfast.agent.credentials import PROOF_HEADER
from holdfast.errors import ProtocolError
from holdfast_checkpoint.digest import Digest, Hasher, check_chunk, chunks_of
from holdfast_checkpoint.errors import CorruptError, NoCheckpointError, StorageBusyError

_HEAD_BYTES_MAX = 16 << 10
_REFUSAL_BYTES_MAX = 64 << 10
# Stays in a core's cache until it is hashed, which then is five times as fast; and is worth a call of its own.
_PIECE_BYTES = 512 << 10
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) [^\r\n]*\r\n")
_TIMEVAL = struct.Struct("@ll")  # seconds, microseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Bytes [start, stop) of a blob with that digest, whole chunks of it. `what` is for messages. `prove(proof, status,
    body)` raises ProtocolError unless the peer knows the secret."""

    what: str
    digest: Digest
    start: int
    stop: int
    prove: Callable[[str, int, bytes], None]


def receive(
    connection: socket.socket,
    request: bytes,
    expected: Expected,
    memory: memoryview,
    stalled_s: float,
) -> None:
    """Send `request`, and fill that part of `memory` with what is answered. Blocking; shutting the connection down ends
    it.

    Raises:
        CorruptError: what came is not what the digest was made of.
        NoCheckpointError: the peer has no sound copy of it.
        StorageBusyError: the peer sends to too many others.
        ProtocolError: an answer that no agent of this job gave, or that breaks the protocol.
        OSError: the connection broke, or nothing came for `stalled_s`.
    """
    connection.settimeout(stalled_s)
    connection.sendall(request)
    status, headers, begin = _read_head(connection)
    proof = headers.get(PROOF_HEADER, "")
    length = _length(headers)
    if status != 200:
        raise _refused(connection, status, proof, begin, length, expected)
    expected.prove(proof, status, expected.digest.text.encode())
    wanted = expected.stop - expected.start
    if length != wanted or len(begin) > length:
        raise ProtocolError(f"{expected.what}: {length} bytes are announced, and {wanted} were asked for")
    with memory.cast("B") as target:
        _fill(connection, begin, expected, target, stalled_s)


def _read_head(connection: socket.socket) -> tuple[int, Message, bytes]:
    """Status, headers, and what of the body came along."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        if len(data) > _HEAD_BYTES_MAX:
            raise ProtocolError(f"the answer's head has over {_HEAD_BYTES_MAX} bytes")
        more = connection.recv(4096)
        if not more:
            raise ConnectionResetError("the peer closed the connection before it answered")
        data += more
    found = _STATUS.match(data)
    if found is None:
        raise ProtocolError(f"not an answer in HTTP: {data[:50]!r}")
    try:
        return int(found[1]), http.client.parse_headers(io.BytesIO(data[found.end() : end + 4])), data[end + 4 :]
    except http.client.HTTPException as error:
        raise ProtocolError(f"not an answer in HTTP: {error!r}") from error


def _length(headers: Message) -> int:
    text = headers.get("Content-Length", "")
    if not re.fullmatch("[0-9]{1,18}", text):
        raise ProtocolError(f"the answer's Content-Length is {text[:50]!r}; should be a number")
    return int(text)


def _refused(
    connection: socket.socket, status: int, proof: str, begin: bytes, length: int, expected: Expected
) -> Exception:
    """What to raise. Only what an agent of this job says is believed."""
    body = begin
    while len(body) < length <= _REFUSAL_BYTES_MAX and (more := connection.recv(4096)):
        body += more
    if not proof:
        return ProtocolError(f"{expected.what}: refused with status {status}")
    expected.prove(proof, status, body)
    text = f"{expected.what}: {body.decode(errors='replace')[:300]}"
    if status in (404, 410):
        return NoCheckpointError(text)
    if status == 503:
        return StorageBusyError(text)
    return ProtocolError(f"{text} (status {status})")


def _fill(connection: socket.socket, begin: bytes, expected: Expected, target: memoryview, stalled_s: float) -> None:
    """`target` is of the whole blob."""
    came = expected.start + len(begin)
    target[expected.start : came] = begin
    flags = _wait_in_kernel(connection, stalled_s)
    for chunk, start, stop in chunks_of(expected.digest, expected.start, expected.stop):
        hasher, hashed = Hasher(expected.digest.chunk_bytes), start
        while hashed < stop:
            end = min(stop, hashed + _PIECE_BYTES)
            while came < end:
                came += _receive(connection, target, came, end, flags)
            with target[hashed:end] as piece:
                hasher.update(piece)
            hashed = end
        if hasher.digest().chunks != (expected.digest.chunks[chunk],):
            _name_corrupt(target, expected, chunk, start, stop)


def _name_corrupt(target: memoryview, expected: Expected, chunk: int, start: int, stop: int) -> None:
    """Raises: CorruptError."""
    with target[start:stop] as view:
        check_chunk(view, expected.digest, chunk, expected.what)
    raise CorruptError(f"{expected.what} was corrupt between bytes {start} and {stop}, and is not any more")


def _receive(connection: socket.socket, target: memoryview, start: int, stop: int, flags: int) -> int:
    with target[start:stop] as view:
        try:
            count = connection.recv_into(view, stop - start, flags)
        except BlockingIOError as error:  # as the kernel says that its time is over
            raise TimeoutError("nothing came") from error
    if count == 0:
        raise ConnectionResetError(f"the peer closed the connection at byte {start}")
    return count


def _wait_in_kernel(connection: socket.socket, stalled_s: float) -> int:
    """Flags with which a whole chunk takes one call, in which Python has no part, and which still ends in time."""
    if isinstance(connection, ssl.SSLSocket):
        return 0
    seconds, fraction = divmod(stalled_s, 1)
    connection.setblocking(True)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(int(seconds), int(fraction * 1e6)))
    return socket.MSG_WAITALL

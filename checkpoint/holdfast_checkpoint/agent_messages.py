"""What a script and the agent of its machine tell each other over a unix socket; files go along as open descriptors.

A message is a frame (4 bytes of length, little-endian) of a type's name, a blank, and JSON with a schema version, as
all of Holdfast's are. A script asks, the agent answers each question once, in order.
"""

import array
import json
import os
import re
import socket
import struct
import time
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import xxhash

from holdfast_checkpoint.digest import Digest
from holdfast_checkpoint.errors import FormatError
from holdfast_checkpoint.folders import folder_of, parts_of

PLACE = "place"  # in a manifest's spec
AGENT = "HOLDFAST_AGENT"  # the environment's name for the path of the socket
FRAME_HEAD = struct.Struct("<I")
FRAME_BYTES_MAX = 16 << 20  # the digest of a blob of 200 GB
_SCHEMA = 1
# Of what gives a save its name: seconds in 32 bits, and parts of one with some chance in 28. In 15 hexadecimal digits,
# so that names sort by time.
_FRACTION_BITS, _CHANCE_BITS, _RUN_DIGITS = 18, 10, 15

# A number alone is none: it may well be that of a run.
_STEP_WORD = r"(?:global[-_]?)?(?:step|iter|iteration|epoch|ckpt|chkpt|checkpoint)s?[-_=.]?\d+"
_STEP = re.compile(rf"{_STEP_WORD}(?:[-_.]{_STEP_WORD})*", re.IGNORECASE)


class Named(NamedTuple):
    """A save: greater for what came later, whatever its step."""

    generation: int
    step: int

    @property
    def run(self) -> str:
        return f"{self.generation:0{_RUN_DIGITS}x}"

    @property
    def made_s(self) -> int:
        """When, in seconds since 1970, by the clock of who made it."""
        return self.generation >> (_FRACTION_BITS + _CHANCE_BITS)

    @property
    def folder(self) -> str:
        """Of the checkpoint, where it is stored as well."""
        return folder_of(self.step, self.run, 0)

    @staticmethod
    def now(step: int, after: int) -> "Named":
        """A new one, later than the generation `after` also where this machine's clock is behind."""
        ticks = (time.time_ns() << _FRACTION_BITS) // 1_000_000_000
        chance = int.from_bytes(os.urandom(2), "little") % (1 << _CHANCE_BITS)
        return Named(max((ticks << _CHANCE_BITS) | chance, after + 1), step)

    @staticmethod
    def of_folder(folder: str) -> "Named | None":
        """None: not of a save by torch.distributed.checkpoint."""
        step, run, generation = parts_of(folder)
        is_ours = generation == 0 and re.fullmatch(f"[0-9a-f]{{{_RUN_DIGITS}}}", run) is not None
        return Named(int(run, 16), step) if is_ours else None


def script_of(url: str, script: str | None = None) -> str:
    """The name under which agents keep saves that follow on each other: of `script`, else of the URL, without a last
    part that names a step (step-40, epoch=3, checkpoint_00040), which is another one for each save of a script."""
    head, _, last = url.rpartition("/")
    names_step = head and not head.endswith("/") and _STEP.fullmatch(last)
    named = f"script:{script}" if script is not None else head if names_step else url
    return str(xxhash.xxh3_64_hexdigest(named.encode()))


def place_of(url: str) -> str:
    """Stands for the URL itself in manifests: of saves that follow on each other some may belong to other URLs."""
    return str(xxhash.xxh3_64_hexdigest(url.encode()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Which saves are there? `copied_s`: how long to wait until the newest has its copies on other machines; 0, where
    somebody is about to load: then the other agents are asked whether they live."""

    script: str
    copied_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A save that is whole in the agents' memory. `is_safe`: any machine may be lost, as far as there are others."""

    step: int
    generation: int
    is_safe: bool

    @property
    def named(self) -> Named:
        return Named(self.generation, self.step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sights:
    """The answer to Look, oldest first. `is_copying`: copies are made in time, as far as this agent sees."""

    node: str
    saves: tuple[Seen, ...]
    is_copying: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """A save of so many blobs begins. Of those before, the agent needs to hold `kept` alone (None: no agent knows of a
    whole one)."""

    script: str
    step: int
    generation: int
    blobs: int
    kept: tuple[int, int] | None  # step, generation


@dataclass(frozen=True, slots=True, kw_only=True)
class Hand:
    """With the file of a blob, in memory and sealed against growing and shrinking. `layer`: its number, None: it is the
    manifest. `rank`: who made it. `is_only`: with the manifest of a save that is nowhere else; it is answered once the
    save is whole for whoever looks."""

    script: str
    step: int
    generation: int
    layer: int | None
    rank: int
    digest: Digest
    is_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """The nearest copy of a blob (`layer` None: of the manifest) is wanted, for reading. `doubted`: the one that was
    handed out before is corrupt: the agent is to look at what it holds itself, and forget what is."""

    script: str
    step: int
    generation: int
    layer: int | None
    doubted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """With the file. `source`: the node whose copy it is."""

    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Of Begin and Hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The agent does not do it. `is_missing`: nobody holds (any more) what was asked for."""

    reason: str
    is_missing: bool = False


QUESTIONS: dict[str, type[Any]] = {kind.__name__: kind for kind in (Look, Begin, Hand, Open)}


def encode(message: Any) -> bytes:
    """The frame's content."""
    body = json.dumps({"v": _SCHEMA, "body": asdict(message)}, separators=(",", ":"))
    return f"{type(message).__name__} {body}".encode()


def decode_answer(data: bytes) -> Sights | Opened | Done | Refused:
    """Raises: FormatError: not what an agent of this version answers."""
    name, _, text = data.partition(b" ")
    try:
        parsed = json.loads(text)
        body = dict(parsed["body"])
        if parsed["v"] != _SCHEMA:
            raise FormatError(
                f"the agent speaks protocol version {parsed['v']}, this script {_SCHEMA}; install the same Holdfast"
            )
        match name:
            case b"Sights":
                return Sights(**(body | {"saves": tuple(Seen(**save) for save in body["saves"])}))
            case b"Opened":
                return Opened(**body)
            case b"Done":
                return Done()
            case b"Refused":
                return Refused(**body)
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"not an answer of Holdfast's agent: {data[:80]!r}") from error
    raise FormatError(f"not an answer of Holdfast's agent: {data[:80]!r}")


def send(connection: socket.socket, data: bytes, fd: int | None) -> None:
    """One frame; blocking. Raises: OSError."""
    head = FRAME_HEAD.pack(len(data))
    if fd is None:
        connection.sendall(head + data)
    else:
        sent = socket.send_fds(connection, [head + data], [fd])
        connection.sendall((head + data)[sent:])


def receive(connection: socket.socket) -> tuple[bytes, int | None]:
    """One frame; blocking. Raises: OSError, FormatError; ConnectionResetError: it is closed."""
    head, fd = take_head(connection)
    try:
        data = _exactly(connection, head, FRAME_HEAD.size)
        return _exactly(connection, b"", frame_bytes(data)), fd
    except BaseException:
        if fd is not None:
            os.close(fd)
        raise


def take_head(connection: socket.socket) -> tuple[bytes, int | None]:
    """The begin of a frame's head, at least a byte, and the file that came along.

    Raises: OSError; ConnectionResetError: the other has closed.
    """
    ancillary_bytes = socket.CMSG_SPACE(array.array("i").itemsize)
    head, ancillary, _, _ = connection.recvmsg(FRAME_HEAD.size, ancillary_bytes, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    for extra in fds[1:]:
        os.close(extra)
    if not head:
        raise ConnectionResetError("the other end is closed")
    return head, fds[0] if fds else None


def frame_bytes(head: bytes) -> int:
    """Raises: FormatError: no message is as long as that."""
    (size,) = FRAME_HEAD.unpack(head)
    if size > FRAME_BYTES_MAX:
        raise FormatError(f"a frame of {size} bytes; at most {FRAME_BYTES_MAX} are accepted")
    return int(size)


def _exactly(connection: socket.socket, begin: bytes, size: int) -> bytes:
    data = bytearray(begin)
    while len(data) < size:
        more = connection.recv(min(size - len(data), 1 << 20))
        if not more:
            raise ConnectionResetError("the other end closed in the middle of a message")
        data += more
    return bytes(data)

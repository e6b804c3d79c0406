"""The few bytes through which a worker shows that it lives, readable even while it holds the GIL or is frozen.

The agent maps the same file. A worker writes at every layer and every return from communication. Behind the beat the
agent writes the permit: until when, and from which generation on, the worker may vote (`control.fencing`).
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

_LAYOUT = struct.Struct("<QBI")
SIZE = _LAYOUT.size
_PERMIT = struct.Struct("<dQ")
PERMIT_SIZE = _PERMIT.size
FILE_SIZE = SIZE + PERMIT_SIZE


class Phase(IntEnum):
    """What the worker is doing; who waits for a peer is not the one that hangs."""

    IDLE = 0
    COMPUTE = 1
    COMMUNICATE = 2


@dataclass(frozen=True, slots=True)
class Beat:
    count: int
    phase: Phase
    step: int


@dataclass(frozen=True, slots=True)
class Permit:
    """`until_s`: seconds since the machine was started. None of the generations up to `lapsed` is voted in any more."""

    until_s: float
    lapsed: int

    def allows(self, generation: int, now_s: float) -> bool:
        return generation > self.lapsed and now_s < self.until_s


def pack_permit(permit: Permit) -> bytes:
    return _PERMIT.pack(permit.until_s, permit.lapsed)


def unpack_permit(data: bytes) -> Permit:
    return Permit(*_PERMIT.unpack(data))


def pack(beat: Beat) -> bytes:
    return _LAYOUT.pack(beat.count, beat.phase, beat.step)


def unpack(data: bytes) -> Beat:
    count, phase, step = _LAYOUT.unpack(data)
    return Beat(count, Phase(phase), step)

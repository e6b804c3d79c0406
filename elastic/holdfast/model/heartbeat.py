"""The few bytes through which a worker shows that it lives, readable even while it holds the GIL or is frozen.

The agent maps the same file. A worker writes at every layer and every return from communication.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

_LAYOUT = struct.Struct("<QBI")
SIZE = _LAYOUT.size


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


def pack(beat: Beat) -> bytes:
    return _LAYOUT.pack(beat.count, beat.phase, beat.step)


def unpack(data: bytes) -> Beat:
    count, phase, step = _LAYOUT.unpack(data)
    return Beat(count, Phase(phase), step)

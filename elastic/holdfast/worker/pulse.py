"""Writes the heartbeat of this worker, and reads its permit to vote."""

import mmap
import time
from pathlib import Path

from holdfast.model import heartbeat
from holdfast.model.heartbeat import Beat, Phase


class Pulse:
    """One shared page of a file that the agent made. About a microsecond a beat."""

    def __init__(self, path: Path | None) -> None:
        self._page: mmap.mmap | None = None
        if path is not None:
            with path.open("r+b") as file:
                self._page = mmap.mmap(file.fileno(), heartbeat.FILE_SIZE)
        self.last = Beat(0, Phase.IDLE, 0)
        self.step = 0

    def beat(self, phase: Phase) -> None:
        self.last = Beat(self.last.count + 1, phase, self.step)
        if self._page is not None:
            self._page[: heartbeat.SIZE] = heartbeat.pack(self.last)

    def may_vote(self, generation: int) -> bool:
        """Whether the agent's word for that is young enough (`control.fencing`)."""
        if self._page is None:
            return True
        permit = heartbeat.unpack_permit(self._page[heartbeat.SIZE : heartbeat.FILE_SIZE])
        return permit.allows(generation, time.clock_gettime(time.CLOCK_BOOTTIME))

"""Many slots on few cores: what each does one after another, on a virtual clock, with the cores shared evenly.

For a machine that plays several nodes (`holdfast run`) and has fewer cores than slots. What each slot does is a program
of operations; it is simulated as written, so it also serves to check `schedule.py`, which is far faster.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import heappop, heappush
from typing import TypeAlias


class Work(StrEnum):
    """What a slot is busy with."""

    LOAD = "load"
    FORWARD = "forward"
    BACKWARD = "backward"
    REDUCE = "reduce"
    UPDATE = "update"
    REST = "rest"


@dataclass(frozen=True, slots=True)
class Task:
    """So many seconds of a core to itself. `microbatch`: of the global batch, where it is of one."""

    work: Work
    seconds: float
    microbatch: int | None = None


@dataclass(frozen=True, slots=True)
class Meeting:
    """Is over `seconds` after the last of `parties` has posted it: a message of two, a barrier of many."""

    key: Hashable
    parties: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Post:
    """Be there, and go on."""

    meeting: Meeting


@dataclass(frozen=True, slots=True)
class Wait:
    """Until all are over, each of which was posted."""

    meetings: tuple[Meeting, ...]


Operation: TypeAlias = Task | Post | Wait


@dataclass(frozen=True, slots=True)
class Done:
    """A task, and when it was at it."""

    task: Task
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Cores:
    """Of the machine that all slots share. `crowded`: how fast a task is while all cores are busy, beside one that is
    alone on the machine (they share memory and caches); in between it is a matter of proportion."""

    count: int
    crowded: float = 1.0

    def rate(self, tasks: int) -> float:
        """Of each of so many tasks at once, 1 for a task alone."""
        busy = min(tasks, self.count)
        crowding = (busy - 1) / (self.count - 1) if self.count > 1 else 0.0
        return (1 - (1 - self.crowded) * crowding) * busy / tasks


def simulate(programs: Iterable[Iterator[Operation]], cores: Cores | None) -> tuple[Sequence[Done], ...]:
    """What each program was busy with, and when; None: each has a core of its own."""
    crowd = _Crowd(tuple(programs), cores)
    crowd.run()
    return tuple(crowd.done)


class _Crowd:
    """All tasks that run do so at the same rate, so each ends at an amount of work that is known when it begins
    (virtual time, as in fair queueing: Demers, Keshav and Shenker, SIGCOMM '89)."""

    def __init__(self, programs: Sequence[Iterator[Operation]], cores: Cores | None) -> None:
        self._programs, self._cores = programs, cores
        self._now_s = self._work = 0.0
        self._running: list[tuple[float, int, Task, float]] = []  # (work at its end, program, task, start)
        self._travelling: list[tuple[float, int, Hashable]] = []
        self._posted: dict[Hashable, int] = {}
        self._over: set[Hashable] = set()
        self._waiting: dict[int, set[Hashable]] = {}
        self._sequence = 0
        self.done: list[list[Done]] = [[] for _ in programs]

    def run(self) -> None:
        for number in range(len(self._programs)):
            self._go_on(number)
        while self._running or self._travelling:
            rate = self._cores.rate(len(self._running)) if self._cores and self._running else 1.0
            end_s = self._now_s + (self._running[0][0] - self._work) / rate if self._running else float("inf")
            if self._travelling and self._travelling[0][0] < end_s:
                over_s, _, key = heappop(self._travelling)
                self._work += (over_s - self._now_s) * rate
                self._now_s = over_s
                self._end_meeting(key)
            else:
                self._work, number, task, start_s = heappop(self._running)
                self._now_s = end_s
                self.done[number].append(Done(task, start_s, end_s))
                self._go_on(number)
        assert not self._waiting, f"programs {sorted(self._waiting)} wait for ever"

    def _go_on(self, number: int) -> None:
        """The program's next operations, up to one that takes time."""
        for operation in self._programs[number]:
            match operation:
                case Task():
                    if operation.seconds > 0:
                        end = self._work + operation.seconds
                        heappush(self._running, (end, number, operation, self._now_s))
                        return
                    self.done[number].append(Done(operation, self._now_s, self._now_s))
                case Post():
                    self._post(operation.meeting)
                case Wait():
                    missing = {m.key for m in operation.meetings if m.key not in self._over}
                    if missing:
                        self._waiting[number] = missing
                        return

    def _post(self, meeting: Meeting) -> None:
        there = self._posted[meeting.key] = self._posted.get(meeting.key, 0) + 1
        if there == meeting.parties:
            self._sequence += 1
            heappush(self._travelling, (self._now_s + meeting.seconds, self._sequence, meeting.key))

    def _end_meeting(self, key: Hashable) -> None:
        self._over.add(key)
        for number in sorted(number for number, missing in self._waiting.items() if key in missing):
            self._waiting[number].discard(key)
            if not self._waiting[number]:
                del self._waiting[number]
                self._go_on(number)

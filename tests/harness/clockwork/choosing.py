"""Who goes next: the scheduler's one decision, drawn from a seed or prescribed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

_TRIES = 8


@dataclass(slots=True, eq=False)
class Lane:
    """One thing that can happen again and again; `run` says what happened. Only run where `ready`."""

    name: str
    ready: Callable[[], bool]
    run: Callable[[], str]
    over: Callable[[], bool] = lambda: False  # never to be ready again


class Chooser(Protocol):
    def choose(self, lanes: Sequence[Lane]) -> Lane | None:
        """A lane that is ready; None where none is."""
        ...


class Seeded:
    """Any lane that is ready, some far more rarely than others: which ones, the seed decides."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._slow: dict[str, bool] = {}

    def choose(self, lanes: Sequence[Lane]) -> Lane | None:
        count, draw = len(lanes), self._random.random
        for _ in range(_TRIES if lanes else 0):
            lane = lanes[int(draw() * count)]
            if (not self._is_slow(lane) or draw() < 0.1) and lane.ready():
                return lane
        ready = [lane for lane in lanes if lane.ready()]
        return ready[int(draw() * len(ready))] if ready else None

    def _is_slow(self, lane: Lane) -> bool:
        slow = self._slow.get(lane.name)
        if slow is None:
            slow = self._slow[lane.name] = self._random.random() < 0.15
        return slow


class InTurn:
    """The lane that waited longest, but for `detours`: at action n, the k-th after it that is ready."""

    def __init__(self, detours: Mapping[int, int] | None = None) -> None:
        self._detours = detours or {}
        self._count = 0
        self._last_run: dict[Lane, int] = {}
        self.widths: list[int] = []  # how many lanes were ready at each action

    def choose(self, lanes: Sequence[Lane]) -> Lane | None:
        ready = [lane for lane in lanes if lane.ready()]
        if not ready:
            return None
        ready.sort(key=lambda lane: self._last_run.get(lane, -1))
        lane = ready[min(self._detours.get(self._count, 0), len(ready) - 1)]
        self.widths.append(len(ready))
        self._count += 1
        self._last_run[lane] = self._count
        return lane

"""Who goes next: the scheduler's one decision, drawn from a seed or prescribed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

_SLOW_LANES, _SLOW_LANE_TAKEN = 0.15, 0.1
_STRIDES = (211, 223, 227, 229, 233, 239, 241, 251)


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
        """Walks through all lanes from a random one in strides of a random prime, which meets each once."""
        count, draw = len(lanes), self._random.random
        if not count:
            return None
        at, stride = int(draw() * count), _STRIDES[int(draw() * len(_STRIDES))]
        if not count % stride:
            stride = 1
        postponed: Lane | None = None
        for _ in range(count):
            lane = lanes[at]
            if lane.ready():
                if not self._is_slow(lane) or draw() < _SLOW_LANE_TAKEN:
                    return lane
                postponed = postponed or lane
            at = (at + stride) % count
        return postponed

    def _is_slow(self, lane: Lane) -> bool:
        slow = self._slow.get(lane.name)
        if slow is None:
            slow = self._slow[lane.name] = self._random.random() < _SLOW_LANES
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

"""Network and clocks: who reaches whom, how long it takes, what is lost on the way, how fast each clock runs."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

# The store's place on the network; every other place is a node.
STORE = "store"

# A direction: from one place to another.
Direction = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What the world outside is like. The default is a perfect one."""

    delay_s: float = 0.0  # the most that a call to the store or a probe takes
    calls_lost: float = 0.0  # share of calls to the store that never arrive, and of answers that are lost
    probes_lost: float = 0.0  # share of probes that nobody hears
    probes_doubled: float = 0.0  # share of answers that arrive twice
    drift: float = 0.0  # the most by which a clock runs too fast or too slow (0.05: 5 %)
    cut_breaks_s: float | None = None  # connections across a cut are reset after so long; None: they just hang


@dataclass(frozen=True, slots=True)
class Clock:
    """One machine's monotonic clock."""

    rate: float = 1.0
    offset_s: float = 0.0

    def read(self, world_s: float) -> float:
        return self.offset_s + world_s * self.rate

    def when(self, local_s: float) -> float:
        """World time at which it shows `local_s`, or a microsecond later: never sooner, by rounding."""
        if self.rate == 1.0 and not self.offset_s:
            return local_s
        return (local_s - self.offset_s) / self.rate + 1e-6


@dataclass(slots=True)
class Channel:
    """One client's conversation with the store: a call begins when the one before was answered."""

    ready_at_s: float = 0.0


class Network:
    """Mutable. A cut lasts until each who made it has healed it; a dark place (its machine is gone) answers nobody."""

    def __init__(self, weather: Weather, seed: int) -> None:
        self.weather = weather
        self.random = Random(seed)
        self._cuts: Counter[Direction] = Counter()
        self._cut_at_s: dict[Direction, float] = {}
        self._dark: dict[str, float] = {}

    @property
    def is_whole(self) -> bool:
        return not self._cuts and not self._dark

    def is_open(self, source: str, target: str) -> bool:
        """Whether what `source` sends reaches `target`."""
        if self.is_whole or source == target:
            return source not in self._dark
        return (source, target) not in self._cuts and source not in self._dark and target not in self._dark

    def joins(self, one: str, other: str) -> bool:
        """Whether they reach each other, as a connection needs."""
        return self.is_open(one, other) and self.is_open(other, one)

    def breaks_at_s(self, one: str, other: str) -> float | None:
        """When a connection between them is reset, because it was cut; None while it is not, or for ever hangs."""
        patience_s = self.weather.cut_breaks_s
        if patience_s is None or self.joins(one, other):
            return None
        times = [self._cut_at_s.get((one, other)), self._cut_at_s.get((other, one))]
        times += [self._dark.get(one), self._dark.get(other)]
        return min(at_s for at_s in times if at_s is not None) + patience_s

    def cut(self, directions: Iterable[Direction], now_s: float) -> None:
        for direction in directions:
            self._cuts[direction] += 1
            self._cut_at_s.setdefault(direction, now_s)

    def heal(self, directions: Iterable[Direction]) -> None:
        for direction in directions:
            self._cuts[direction] -= 1
            if not self._cuts[direction]:
                del self._cuts[direction], self._cut_at_s[direction]

    def darken(self, place: str, now_s: float) -> None:
        self._dark.setdefault(place, now_s)

    def light(self, place: str) -> None:
        self._dark.pop(place, None)

    def delay_s(self) -> float:
        return self.random.random() * self.weather.delay_s if self.weather.delay_s else 0.0

    def happens(self, share: float) -> bool:
        return share > 0.0 and self.random.random() < share

    def clock(self) -> Clock:
        """Of a machine that starts."""
        drift = self.weather.drift
        if not drift:
            return Clock()
        return Clock(rate=self.random.uniform(1 - drift, 1 + drift), offset_s=self.random.uniform(0.0, 1e6))


def both_ways(some: Iterable[str], others: Iterable[str]) -> tuple[Direction, ...]:
    """All directions between two groups."""
    return tuple(sorted({pair for one in some for other in others for pair in ((one, other), (other, one))}))

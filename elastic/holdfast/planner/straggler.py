"""How fast each slot is beside the others, from what steps take: a slow one is noticed, and noise changes nothing.

Every step each slot tells how long it was busy. Divided by what the profile foresees for its stage that is its
slowness, whose median over the last steps a few bad ones do not move. A step that is slow for all slots says nothing
of any of them, so slownesses are taken relative to the slots' median.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median

from holdfast.model.ids import SlotId


@dataclass(frozen=True, slots=True, kw_only=True)
class Caution:
    """`steps`: of which the median is taken, and which must all have been seen. A speed that is told changes once what
    is seen differs from it by `leave`, a share, and a slot counts as being of speed 1 within `near` of it. A slow slot
    that got fewer layers is judged by its share of work as before, so its speed is not seen to jump back."""

    steps: int = 20
    leave: float = 0.15
    near: float = 0.1

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; should be at least 1")
        if not 0 <= self.near < self.leave < 1:
            raise ValueError(f"near is {self.near} and leave {self.leave}; should be 0 <= near < leave < 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """What was seen so far, and what follows from it. `told`: slots that are not of speed 1."""

    caution: Caution = field(default_factory=Caution)
    seen: Mapping[SlotId, tuple[float, ...]] = field(default_factory=dict)  # slownesses of the last steps
    told: Mapping[SlotId, float] = field(default_factory=dict)

    def observe(self, busy_s: Mapping[SlotId, float], foreseen_s: Mapping[SlotId, float]) -> "Speeds":
        """With one more step. `foreseen_s`: for a slot of speed 1; slots for which it is 0, or says nothing, are left
        out, and those that are not in the step any more are forgotten."""
        slowness = {
            slot: busy_s[slot] / foreseen_s[slot]
            for slot in sorted(busy_s)
            if foreseen_s.get(slot, 0.0) > 0 and busy_s[slot] > 0
        }
        if not slowness:
            return self
        usual = median(slowness.values())
        seen = {
            slot: (*self.seen.get(slot, ()), value / usual)[-self.caution.steps :] for slot, value in slowness.items()
        }
        return replace(self, seen=seen, told=dict(self._told(seen)))

    def _told(self, seen: Mapping[SlotId, tuple[float, ...]]) -> Iterable[tuple[SlotId, float]]:
        for slot, values in seen.items():
            known = self.told.get(slot, 1.0)
            if len(values) == self.caution.steps:
                speed = 1 / median(values)
                if abs(speed / known - 1) > self.caution.leave:
                    known = 1.0 if abs(speed - 1) <= self.caution.near else round(speed, 2)
            if known != 1.0:
                yield slot, known

"""How fast each slot is beside the others, and what layers cost at speed 1, from what layers take where they run.

What a slot takes for its layers, divided by what they are known to cost, is its slowness. What is slow for all says
nothing of any of them, so slownesses are taken relative to the usual one. Each value told here is a median over many
steps already (`worker.pace`), which a few bad ones do not move.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from statistics import median_low
from typing import TypeAlias

from holdfast.model.ids import SlotId
from holdfast.model.measured import Measured

# Who computes less than this share of what the busiest slot does is not judged: little work is mostly noise.
_SAYS_LITTLE = 0.1
# A slot is told to be so much slower or faster than others at most: beyond that it makes no difference to a layout.
_SLOWEST, _FASTEST = 0.05, 20.0

# By slot, what a microbatch takes there in each of its layers.
Seen: TypeAlias = Mapping[SlotId, Mapping[int, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caution:
    """A speed that is told changes once what is seen differs from it by `leave`, a share, and a slot counts as being of
    speed 1 within `near` of it."""

    leave: float = 0.15
    near: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.near < self.leave < 1:
            raise ValueError(f"near is {self.near} and leave {self.leave}; should be 0 <= near < leave < 1")

    def told(self, known: float, seen: float) -> float:
        """What is told of a slot of which `known` was, and `seen` is what it looks like now."""
        if not isfinite(seen) or abs(seen / known - 1) <= self.leave:
            return known
        return 1.0 if abs(seen - 1) <= self.near else round(min(max(seen, _SLOWEST), _FASTEST), 2)


CAUTION = Caution()


def learn(
    before: Measured, seen: Seen, layers: int, profile_s: Sequence[float] = (), caution: Caution = CAUTION
) -> Measured:
    """With what is seen now, of a model of so many layers.

    `profile_s`: what they cost by a profile, for as long as none was seen running; without one the first costs come
    from the slots that share a layer, so one that was slow from the beginning is found only where others hold what it
    holds.
    """
    seen = _sound(seen)
    if not seen:
        return before
    known = dict(enumerate(before.layer_s or profile_s))
    costs = known or _typical(seen, {})
    expected = {slot: sum(costs.get(layer, 0.0) for layer in mine) for slot, mine in seen.items()}
    enough = _SAYS_LITTLE * max(expected.values())
    slowness = {slot: sum(mine.values()) / expected[slot] for slot, mine in seen.items() if expected[slot] > enough}
    speeds = {slot: speed for slot, speed in before.speeds if isfinite(speed) and speed > 0}
    # The lower one of two in the middle: of two slots the slow one is slow, rather than the other fast.
    usual = median_low(slowness.values()) if slowness else 1.0
    for slot, value in slowness.items():
        speeds[slot] = caution.told(speeds.get(slot, 1.0), usual / value)
    # What nobody was seen to compute is as slow as the rest.
    now = {layer: value * usual for layer, value in known.items()} | _typical(seen, speeds)
    return replace(
        before,
        layer_s=tuple(now[layer] for layer in range(layers)) if len(now) == layers else (),
        speeds=tuple((slot, speed) for slot, speed in sorted(speeds.items()) if speed != 1.0),
    )


def _sound(seen: Seen) -> dict[SlotId, dict[int, float]]:
    """Without what no clock can have told."""
    kept = {
        slot: {layer: value for layer, value in sorted(seen[slot].items()) if isfinite(value) and value > 0}
        for slot in sorted(seen)
    }
    return {slot: mine for slot, mine in kept.items() if mine}


def _typical(seen: Seen, speeds: Mapping[SlotId, float]) -> dict[int, float]:
    """Of each layer, what it takes at speed 1, by those that hold it."""
    found: dict[int, list[float]] = {}
    for slot, mine in seen.items():
        for layer, value in mine.items():
            found.setdefault(layer, []).append(value * speeds.get(slot, 1.0))
    return {layer: median_low(values) for layer, values in sorted(found.items())}

"""A failing scenario made small: as few faults, nodes, steps and oddities as still break the same promise.

Delta debugging (Zeller and Hildebrandt, TSE 28, 2002) over the faults, then one simplification after another.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from holdfast.simulator.network import Weather
from holdfast.simulator.scenario import Scenario, play
from holdfast.simulator.wires import ViolationError
from holdfast.simulator.world import Dials

# With one fault less everything happens in another order; so many orders are tried before the fault counts as needed.
_ORDERS = 20
_PLAYS_MAX = 1500


@dataclass(frozen=True, slots=True)
class Failure:
    """A scenario, an order of events, and what went wrong: `story` is the transcript, `promise` its last line."""

    scenario: Scenario
    seed: int
    story: str

    @property
    def promise(self) -> str:
        return self.story.rstrip().splitlines()[-1]

    @property
    def kind(self) -> str:
        """The promise without numbers and names."""
        return re.sub(r"\b[a-z]\d*/\d+\b|\d+", "#", self.promise)[:48]


def failure_of(scenario: Scenario, seed: int) -> Failure | None:
    """None where all promises hold."""
    try:
        play(scenario, seed)
    except ViolationError as error:
        return Failure(scenario, seed, str(error))
    return None


def shrink(failure: Failure) -> Failure:
    """The smallest one found that breaks the same promise."""
    return _Shrinker(failure).shrink()


class _Shrinker:
    def __init__(self, failure: Failure) -> None:
        self._best = failure
        self._plays = 0

    def shrink(self) -> Failure:
        self._fewer_faults()
        simplified = True
        while simplified:
            simplified = any(self._still_fails(simpler) for simpler in _simpler(self._best.scenario))
        self._fewer_faults()
        return self._best

    def _still_fails(self, scenario: Scenario) -> bool:
        for seed in (self._best.seed, *range(_ORDERS)):
            if self._plays >= _PLAYS_MAX:
                return False
            self._plays += 1
            failure = failure_of(scenario, seed)
            if failure is not None and failure.kind == self._best.kind:
                self._best = failure
                return True
        return False

    def _fewer_faults(self) -> None:
        """Take away larger parts first, then smaller ones."""
        parts = 2
        while faults := self._best.scenario.faults:
            size = -(-len(faults) // parts)
            rests = [(*faults[:at], *faults[at + size :]) for at in range(0, len(faults), size)]
            if any(self._still_fails(replace(self._best.scenario, faults=rest)) for rest in rests):
                parts = max(parts - 1, 2)
            elif size == 1:
                return
            else:
                parts = min(2 * parts, len(faults))


def _simpler(scenario: Scenario) -> Iterator[Scenario]:
    """Each one thing less."""
    plain, weather, dials = Scenario(), scenario.weather, scenario.dials
    if weather != Weather():
        yield replace(scenario, weather=Weather())
    if len(scenario.nodes) > 1:
        yield replace(scenario, nodes=scenario.nodes[:-1])
    if scenario.steps > 1:
        yield replace(scenario, steps=scenario.steps - 1)
    for name in ("adaptive", "slots", "blocks", "depth", "memory", "nodes_max", "nodes_min"):
        if getattr(scenario, name) != getattr(plain, name):
            yield replace(scenario, **{name: getattr(plain, name)})
    for part in fields(Weather):
        if getattr(weather, part.name) != part.default:
            default: dict[str, Any] = {part.name: part.default}
            yield replace(scenario, weather=replace(weather, **default))
    for part in fields(Dials):
        if getattr(dials, part.name) != part.default:
            default = {part.name: part.default}
            yield replace(scenario, dials=replace(dials, **default))

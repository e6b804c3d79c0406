"""Many seeds: what was played, what it covered, what failed. Batches add up, and travel between processes as JSON."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from holdfast.simulator.choosing import Seeded
from holdfast.simulator.coverage import Coverage
from holdfast.simulator.drawing import draw
from holdfast.simulator.scenario import play
from holdfast.simulator.shrinking import Failure, shrink
from holdfast.simulator.wires import ViolationError
from holdfast.simulator.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A seed that broke a promise. `shrunk`: the scenario that is left of it, and the order that it fails in."""

    seed: int
    promise: str
    story: str
    shrunk: str
    shrunk_seed: int
    shrunk_story: str


@dataclass(slots=True)
class Batch:
    """Sums over seeds. Times are simulated seconds."""

    seeds: int = 0
    actions: int = 0
    simulated_s: float = 0.0
    steps: int = 0
    redone_steps: int = 0
    results: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)  # that struck, by kind
    coverage: Coverage = field(default_factory=Coverage)
    broken: list[Broken] = field(default_factory=list)

    def add(self, other: "Batch") -> None:
        self.seeds += other.seeds
        self.actions += other.actions
        self.simulated_s += other.simulated_s
        self.steps += other.steps
        self.redone_steps += other.redone_steps
        self.results.update(other.results)
        self.faults.update(other.faults)
        self.coverage.add(other.coverage)
        self.broken += other.broken

    def to_json(self) -> dict[str, Any]:
        """Counters as plain objects: `asdict` counts their items instead of copying them."""
        counts = {name: dict(getattr(self, name)) for name in ("results", "faults")}
        return (
            {f.name: getattr(self, f.name) for f in fields(self)}
            | counts
            | {
                "coverage": self.coverage.to_json(),
                "broken": [asdict(broken) for broken in self.broken],
            }
        )

    @staticmethod
    def from_json(data: dict[str, Any]) -> "Batch":
        coverage = Coverage.from_json(data["coverage"])
        broken = [Broken(**entry) for entry in data["broken"]]
        counts = {name: Counter(data[name]) for name in ("results", "faults")}
        return Batch(**data | counts | {"coverage": coverage, "broken": broken})


def play_seeds(seeds: Iterable[int], *, shrinking: bool = True) -> Batch:
    """Each seed's scenario to its end, in its order."""
    batch = Batch()
    for seed in seeds:
        batch.seeds += 1
        scenario = draw(seed)
        batch.faults.update(fault.kind for fault in scenario.faults)
        try:
            world = play(scenario, seed)
        except ViolationError as error:
            batch.broken.append(_broken(Failure(scenario, seed, str(error)), shrinking=shrinking))
            batch.results["broken"] += 1
            continue
        assert world.outcome is not None
        batch.results[world.outcome.result] += 1
        batch.actions += len(world.transcript)
        batch.simulated_s += world.now_s
        batch.steps += world.checkers.newest_step
        batch.redone_steps += world.checkers.redone_steps
        batch.coverage.add(world.coverage)
    return batch


def _broken(failure: Failure, *, shrinking: bool) -> Broken:
    small = shrink(failure) if shrinking else failure
    return Broken(
        seed=failure.seed,
        promise=failure.promise,
        story=failure.story,
        shrunk=str(small.scenario),
        shrunk_seed=small.seed,
        shrunk_story=small.story,
    )


def trace_of(seed: int) -> str:
    """A hash of all that happens under a seed: the same in every process. Raises: ViolationError."""
    return _hash(play(draw(seed), seed, Seeded(seed)))


def _hash(world: World) -> str:
    return hashlib.sha256(json.dumps(world.transcript).encode()).hexdigest()

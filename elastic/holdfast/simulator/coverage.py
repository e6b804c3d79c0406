"""Which transitions of the coordinator a run came through: events by the state they met, and what it decided."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import get_args

from holdfast.control.coordinator import Coordinator
from holdfast.model.commands import Command, WriteGeneration, WriteOutcome, WriteStart
from holdfast.model.events import Event
from holdfast.model.records import Action, Cause, Result

STATES = ("none", "stopping", "aborting", "starting", "training", "holding", "finishing")
EVENTS = tuple(kind.__name__ for kind in get_args(Event))
DECISIONS = (
    *(f"generation:{cause}" for cause in Cause),
    *(f"start:{action}" for action in Action),
    *(f"outcome:{result}" for result in Result),
    *("ReleaseDrain", "ProbeNode", "EvictNode"),
)


@dataclass(slots=True)
class Coverage:
    """How often each pair, and each decision in a state, was seen."""

    pairs: Counter[str] = field(default_factory=Counter)
    decisions: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)  # decisions by the state that they were taken in

    @staticmethod
    def state_of(coordinator: Coordinator) -> str:
        view = coordinator.view
        if view.generation is None:
            return "none"
        if view.start is None:
            return "aborting" if view.generation.stop == "abort" else "stopping"
        if not view.is_running:
            return "starting"
        return {Action.TRAIN: "training", Action.HOLD: "holding", Action.FINISH: "finishing"}[view.start.action]

    def handled(self, state: str, event: Event, commands: Iterable[Command]) -> None:
        self.pairs[f"{type(event).__name__} while {state}"] += 1
        for command in commands:
            decision = _name(command)
            self.decisions[decision] += 1
            self.changes[f"{decision} while {state}"] += 1

    def add(self, other: "Coverage") -> None:
        self.pairs.update(other.pairs)
        self.decisions.update(other.decisions)
        self.changes.update(other.changes)

    def to_json(self) -> dict[str, dict[str, int]]:
        return {"pairs": dict(self.pairs), "decisions": dict(self.decisions), "changes": dict(self.changes)}

    @staticmethod
    def from_json(data: Mapping[str, Mapping[str, int]]) -> "Coverage":
        return Coverage(**{name: Counter(counts) for name, counts in data.items()})

    @property
    def unseen_pairs(self) -> tuple[str, ...]:
        return tuple(
            pair for event, state in product(EVENTS, STATES) if (pair := f"{event} while {state}") not in self.pairs
        )

    @property
    def unseen_decisions(self) -> tuple[str, ...]:
        return tuple(decision for decision in DECISIONS if decision not in self.decisions)


def _name(command: Command) -> str:
    match command:
        case WriteGeneration(record):
            return f"generation:{record.cause}"
        case WriteStart(record):
            return f"start:{record.action}"
        case WriteOutcome(record):
            return f"outcome:{record.result}"
        case _:
            return type(command).__name__

"""What must hold after every action. Each checker looks at what really is, not at what anybody reported.

Here: of the records in the store, and of what workers commit. `stored` and `decisions` have rooms of their own.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from holdfast.model.ids import NodeId, SlotId
from holdfast.model.records import (
    CheckpointsRecord,
    Commit,
    DrainRecord,
    GenerationRecord,
    NodeAck,
    OutcomeRecord,
    ProgressRecord,
    Result,
    StartRecord,
    StopMode,
    Version,
)
from holdfast.ports.store import WatchEvent
from holdfast.simulator.decisions import Decisions
from holdfast.simulator.decoding import decoded
from holdfast.simulator.held import show
from holdfast.simulator.history import History
from holdfast.simulator.stored_copies import StoredCopies
from holdfast.simulator.weights import Reference, State
from holdfast.simulator.wires import Wires, require
from holdfast.simulator.worker import Worker

if TYPE_CHECKING:
    from holdfast.simulator.world import World


class Checkers:
    """Told by the world; raises ViolationError."""

    def __init__(self, world: "World", reference: Reference) -> None:
        self._world, self._reference = world, reference
        self.generations: list[GenerationRecord] = []
        self.starts: dict[int, StartRecord] = {}
        self.commits: dict[Version, float] = {}  # loss by version, as workers had it
        self.told: dict[int, float] = {}  # loss by step, as the store tells it
        self.newest_voting = 0
        self.newest_step = 0
        self.advanced_s = 0.0  # when that grew, or final weights were written
        self.final: dict[int, State] = {}
        self.released: set[NodeId] = set()
        self.redone_steps = 0
        self.votes_out_of_reach = 0  # a generation went on whose nodes were all taken for dead
        self._history = History(  # grows with these three
            layers=reference.layers, generations=self.generations, starts=self.starts, commits=self.commits
        )
        self.stored = StoredCopies(world, reference, self._history)
        self.decisions = Decisions(world, self._history, self.stored)

    # The store.

    def written(self, change: WatchEvent) -> None:
        if change.kind == "delete":
            return
        kind, _, rest = change.kv.key.removeprefix(self._world.keys.prefix).partition("/")
        value = change.kv.value
        match kind:
            case "generation":
                self._generation_written(decoded(GenerationRecord, value))
            case "start":
                self._start_written(decoded(StartRecord, value))
            case "drains" if decoded(DrainRecord, value).released:
                self.released.add(NodeId(rest))
            case "progress":
                self._told(decoded(ProgressRecord, value).commits)
            case "acks":
                for inventory in decoded(NodeAck, value).inventory:
                    self._told(inventory.commits)
            case "checkpoints":
                self.stored.listed(decoded(CheckpointsRecord, value))
            case "outcome":
                self._outcome_written(decoded(OutcomeRecord, value))

    def _generation_written(self, record: GenerationRecord) -> None:
        if self.generations and record == self.generations[-1]:
            return  # written again, since the answer was lost
        expected = self.generations[-1].number + 1 if self.generations else 1
        require(record.number == expected, f"generation {record.number} follows {expected - 1}")
        self.generations.append(record)

    def _start_written(self, start: StartRecord) -> None:
        number = start.generation
        if self.starts.get(number) == start:
            return
        require(number not in self.starts, f"generation {number} has a second start")
        require(number == self.generations[-1].number, f"start {number} comes after a newer generation")
        require(self._history.has(start.version), f"start {number} takes up {show(start.version)}, which was given up")
        self.starts[number] = start
        self.redone_steps += start.redone_steps

    def _told(self, commits: Iterable[Commit]) -> None:
        for commit in commits:
            known = self.told.setdefault(commit.step, commit.loss)
            if not self._world.dials.salted:
                require(known == commit.loss, f"the loss of step {commit.step} is {commit.loss}, and was {known}")
            self.told[commit.step] = commit.loss

    def _outcome_written(self, record: OutcomeRecord) -> None:
        before = self._world.outcome
        require(before is None or before.result is record.result, f"the outcome was {before}, and is now {record}")
        self._world.outcome = before or record
        if record.result is Result.COMPLETED:
            self._completed(record)

    def _completed(self, record: OutcomeRecord) -> None:
        steps = self._reference.steps
        require(record.step == steps, f"completed at step {record.step} of {steps}")
        # What only those knew who died before they told anybody may be found in what they stored.
        stored = max((start.version.step for start in self.starts.values() if start.restores), default=0)
        missing = set(range(stored + 1, steps + 1)) - self.told.keys()
        require(not missing, f"completed, but nobody was told of steps {sorted(missing)}")
        lacking = set(range(self._reference.layers)) - self.final.keys()
        require(not lacking, f"completed, but the final weights of layers {sorted(lacking)} are not written")

    # The workers.

    def voted(self, wires: Wires) -> None:
        """All ranks of a generation have voted. One that froze may find, when it goes on, that its peers had voted
        before they left: it then commits what is no part of the history. While nobody has left, nobody may be ahead.
        """
        number = wires.start.generation
        if number < self.newest_voting and not wires.lost:
            self._check_expelled(number)
        self.newest_voting = max(self.newest_voting, number)

    def _check_expelled(self, number: int) -> None:
        """Beside a newer generation only such run on as nobody can reach: the newer one has none of them."""
        running = {ref.worker for ref in self.generations[number - 1].members if ref.slot in self._slots_of(number)}
        for newer in self.generations[number:]:
            shared = running & {ref.worker for ref in newer.members}
            require(not shared, f"{number} votes beside {self.newest_voting}, with {sorted(shared)} in {newer.number}")
        alone = all(self._world.is_orphan(worker) for worker in running)
        require(alone, f"{number} votes beside {self.newest_voting}, and none of its voters is dead")
        self.votes_out_of_reach += 1

    def _slots_of(self, number: int) -> Sequence[SlotId]:
        plan = self.starts[number].plan
        return plan.slots if plan is not None else ()

    def committed(self, worker: Worker, commit: Commit) -> None:
        """Called for every rank, also where it rolls forward."""
        version = worker.held.version
        assert version is not None
        if version.step > self.newest_step:
            self.newest_step, self.advanced_s = version.step, self._world.now_s
        known = self.commits.setdefault(version, commit.loss)
        require(known == commit.loss, f"{show(version)} was committed with two losses")
        if not self._world.dials.salted:
            self._check_states(worker, version, commit)

    def _check_states(self, worker: Worker, version: Version, commit: Commit) -> None:
        states = self._reference.states[version.step]
        wrong = [layer for layer, state in sorted(worker.held.layers.items()) if state != states[layer]]
        require(not wrong, f"{worker.slot} commits {show(version)} with wrong layers {wrong}")
        right = self._reference.losses[version.step]
        require(commit.loss == right, f"the loss of {show(version)} is {commit.loss} instead of {right}")

    def finished(self, layer: int, state: State) -> None:
        if not self._world.dials.salted:
            require(state == self._reference.states[-1][layer] or self._stopped(), f"final layer {layer} is wrong")
        self.final[layer] = state
        self.advanced_s = self._world.now_s

    def _stopped(self) -> bool:
        return self._world.keyspace.get(self._world.keys.one("stop")) is not None

    # For tests.

    def planned_only(self) -> bool:
        """Whether every generation began at a step boundary and redid nothing."""
        return not self.redone_steps and all(g.stop is StopMode.BOUNDARY for g in self.generations)

    def reasons(self) -> Iterator[str]:
        return (f"{g.number}: {g.cause} ({g.reason})" for g in self.generations)

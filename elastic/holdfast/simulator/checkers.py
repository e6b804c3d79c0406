"""What must hold after every action. Each checker looks at what really is, not at what anybody reported."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from holdfast.control.coordinator import Coordinator
from holdfast.model.commands import Command, ReleaseDrain, WriteOutcome, WriteStart
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.records import (
    CheckpointRef,
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
from holdfast.simulator.decoding import decoded
from holdfast.simulator.held import show
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
        self.checkpoints: tuple[CheckpointRef, ...] = ()  # that the store lists
        self.flipped = 0  # bytes
        self._best: Version | None = None  # as of the last action
        self._alive: tuple[object, ...] = ()
        self._safe: set[tuple[int, Version]] = set()  # versions that a vote of a generation showed to be whole
        self.votes_out_of_reach = 0  # a generation went on whose nodes were all taken for dead
        self.copies_out_of_reach = 0  # job failed while an agent that had lost its lease held what was missing

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
                self._checkpoints_written(decoded(CheckpointsRecord, value))
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
        require(self._is_history(start.version), f"start {number} takes up {show(start.version)}, which was given up")
        self.starts[number] = start
        self.redone_steps += start.redone_steps

    def _told_to(self, coordinator: Coordinator) -> frozenset[Version]:
        """Commits that the coordinator knows of."""
        return frozenset(Version(commit.step, generation) for generation, commit in coordinator.view.told.items())

    def _best_version(
        self, workers: Iterable[Worker], known: Collection[Version], stored: Mapping[Version, Collection[int]]
    ) -> Version | None:
        """The newest version of the history that all layers are found at, by what the workers really hold, and by what
        is `stored`. `known`: versions that were committed; who has only voted for such a one can roll forward to it."""
        held = [worker.held for worker in workers if worker.held.layers and worker.held.version is not None]
        versions = {h.version for h in held if h.version is not None}
        versions |= {h.pending for h in held if h.pending is not None and h.pending in known}
        versions |= stored.keys()
        for version in sorted((v for v in versions if self._is_history(v)), reverse=True):
            found = set(stored.get(version, ()))
            for h in held:
                if version in (h.version, h.pending):
                    found.update(h.layers)
            if len(found) == self._reference.layers:
                return version
        return None

    def _stored(self, nodes: Collection[NodeId], *, rotten: bool = False) -> dict[Version, set[int]]:
        """Sound copies in the RAM of live agents of these nodes, and sound checkpoints that the store lists. `rotten`:
        also copies of which nobody knows yet that they are not sound."""
        found: dict[Version, set[int]] = {}
        for node in nodes:
            agent = self._world.agents.get(node)
            for copy in agent.tiers.ram.copies() if agent is not None and not agent.dead else ():
                if copy.buffer.is_sound or rotten:
                    found.setdefault(Version(*copy.version), set()).add(copy.layer)
        return found | self._in_storage()

    def _in_storage(self) -> dict[Version, set[int]]:
        storage, layers = self._world.storage, self._reference.layers
        sound = (ref.version for ref in self.checkpoints if storage.is_sound(ref.folder, layers))
        return {version: set(range(layers)) for version in sound}

    def _is_history(self, version: Version) -> bool:
        """Against all starts, not a shortened lineage."""
        return not any(
            s.generation > version.generation and s.version.step < version.step for s in self.starts.values()
        )

    def _told(self, commits: Iterable[Commit]) -> None:
        for commit in commits:
            known = self.told.setdefault(commit.step, commit.loss)
            if not self._world.dials.salted:
                require(known == commit.loss, f"the loss of step {commit.step} is {commit.loss}, and was {known}")
            self.told[commit.step] = commit.loss

    def _checkpoints_written(self, record: CheckpointsRecord) -> None:
        """One that is listed is whole, and its layers are what they should be."""
        for ref in record.committed:
            blobs = self._world.storage.folders.get(ref.folder, {})
            require(ref.folder in self._world.storage.committed, f"{ref.folder} is listed, and not committed")
            lacking = set(range(self._reference.layers)) - blobs.keys()
            require(not lacking, f"{ref.folder} is listed without its layers {sorted(lacking)}")
            if ref not in self.checkpoints:
                self._check_stored(ref.version, {layer: blob.state for layer, blob in blobs.items() if blob.is_sound})
        self.checkpoints = record.committed

    def _check_stored(self, version: Version, layers: Mapping[int, State]) -> None:
        if not self._world.dials.salted:
            right = self._reference.states[version.step]
            wrong = sorted(layer for layer, state in layers.items() if state != right[layer])
            require(not wrong, f"what is stored as {show(version)} has wrong layers {wrong}")

    def restored(self, worker: Worker, layers: Iterable[int]) -> None:
        """A worker took over what its agent fetched."""
        assert worker.held.version is not None
        self._check_stored(worker.held.version, {layer: worker.held.layers[layer] for layer in layers})

    def kept(self, worker: Worker, version: Version) -> None:
        """A vote of its generation showed that to be whole everywhere."""
        self._safe.add((worker.generation, version))

    def overwrites(self, worker: Worker, kept: Version | None) -> None:
        """A worker is about to take a snapshot: what a vote of its generation showed to be whole everywhere must be
        there, with the copies that are wanted, as long as nobody who had a part in that is gone and no byte flipped."""
        start = self.starts[worker.generation]
        if kept is None or (worker.generation, kept) not in self._safe or start.plan is None or self.flipped:
            return
        nodes = start.plan.nodes
        agents = [self._world.agents[node] for node in sorted(nodes)]
        members = {ref.worker for ref in self.generations[start.generation - 1].members if ref.slot in start.plan.slots}
        if any(agent.dead for agent in agents) or any(self._world.worker(name) is None for name in members):
            return
        for layer in range(self._reference.layers):
            held = sum(bool(agent.tiers.ram.find(layer, (kept.step, kept.generation))) for agent in agents)
            wanted = min(self._world.job.copies + 1, len(nodes))
            require(held >= wanted, f"layer {layer} at {show(kept)} is kept by {held} nodes, and should be by {wanted}")

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

    # Everybody.

    def acted(self) -> None:
        """Nothing is ever lost by what is done, only by what dies: after an action that no process went with, what
        could be started from before can be started from still, or something newer. Unless bytes flip: then what is
        kept may be rotten, and the one before is overwritten all the same."""
        if self.flipped:
            return
        before, alive = self._best, self._alive
        self._alive = self._processes()
        workers = [worker for worker in self._world.workers() if not self._world.is_orphan(worker.worker)]
        stored = self._stored(self._world.agents.keys())
        for worker in workers:  # whose agent will hear of these in a moment
            for version, layer in worker.buffers.whole():
                stored.setdefault(version, set()).add(layer)
        self._best = self._best_version(workers, self.commits, stored)
        if before is None or self._alive != alive or self._world.outcome is not None or not self._is_history(before):
            return
        # What nobody knows to be whole may be overwritten by something newer.
        number = max(self.starts, default=0)
        known = [version for generation, version in self._safe if generation == number]
        floor = max(known, default=self.starts[number].version if number else Version(0, 0))
        found = self._best is not None and self._best >= min(before, floor)
        require(found, f"{show(before)} could be started from, and now {show(self._best)} is what is left")

    def _processes(self) -> tuple[object, ...]:
        """That hold something. A step that somebody commits takes what it held before with it."""
        agents = [agent.member.identity.incarnation for agent in self._world.agents.values() if not agent.dead]
        held = ((worker.worker, worker.held.version) for worker in self._world.workers())
        return (*agents, *held)

    # The coordinator.

    def decided(self, coordinator: Coordinator, commands: Sequence[Command]) -> None:
        """After every event."""
        view = coordinator.view
        if view.start is not None:
            require(view.generation is not None and view.start.generation == view.generation.number, "a start too old")
        for command in commands:
            if isinstance(command, ReleaseDrain):
                self._releasing(command.record.node, coordinator)
            elif isinstance(command, WriteStart):
                self._starting(command.record, coordinator)
            elif isinstance(command, WriteOutcome) and "last copy" in command.record.reason:
                self._gone(command.record, coordinator)

    def _starting(self, start: StartRecord, coordinator: Coordinator) -> None:
        """From no older step than what members hold."""
        members = [w for ref in coordinator.view.members if (w := self._world.worker(ref.worker)) is not None]
        best = self._best_version(
            members, self._told_to(coordinator), _told_stored(coordinator, self._reference.layers)
        )
        require(
            best is None or start.version.step >= best.step,
            f"start {start.generation} is at {show(start.version)}, but members hold {show(best)}",
        )

    def _releasing(self, node: NodeId, coordinator: Coordinator) -> None:
        """What is at the newest start or beyond lies elsewhere as well, with workers not known to be gone; so does
        the newest step that all layers are found at."""
        if self._world.outcome is not None:
            return
        kept = [self._world.process(ref.worker) for ref in coordinator.view.live if ref.slot.node != node]
        own = [worker for worker in self._world.workers() if worker.slot.node == node]
        others = set(coordinator.view.nodes) - {node}
        with_it = self._best_version(kept + own, self.commits, self._stored(others | {node}, rotten=True))
        without = self._best_version(kept, self.commits, self._stored(others, rotten=True))
        harmless = with_it is None or with_it.step == 0 or (without is not None and without.step >= with_it.step)
        require(harmless, f"{node} is released with the only copy of some layers at {show(with_it)}")
        newest = self.starts[max(self.starts)].version if self.starts else Version(0, 0)
        if newest.step == 0:
            return
        taken = {layer for worker in own if _is_at(worker, newest) for layer in worker.held.layers}
        missing = taken - {layer for worker in kept if _is_at(worker, newest) for layer in worker.held.layers}
        missing -= self._stored(others, rotten=True).get(newest, set())
        require(not missing, f"{node} is released with the only copy of some layers: {sorted(missing)}")

    def _gone(self, record: OutcomeRecord, coordinator: Coordinator) -> None:
        """A job fails for want of a copy only where there really is none, on any node that is known."""
        live = [worker for worker in self._world.workers() if not self._world.is_orphan(worker.worker)]
        told = self._told_to(coordinator)
        nodes = coordinator.view.nodes
        found = self._best_version((w for w in live if w.slot.node in nodes), told, self._stored(nodes.keys()))
        require(found is None, f"failed ({record.reason}), but live nodes hold all layers at {show(found)}")
        if self._best_version(live, told, self._stored(self._world.agents.keys())) is not None:
            self.copies_out_of_reach += 1

    # For tests.

    def planned_only(self) -> bool:
        """Whether every generation began at a step boundary and redid nothing."""
        return not self.redone_steps and all(g.stop is StopMode.BOUNDARY for g in self.generations)

    def reasons(self) -> Iterator[str]:
        return (f"{g.number}: {g.cause} ({g.reason})" for g in self.generations)


def _told_stored(coordinator: Coordinator, layers: int) -> dict[Version, set[int]]:
    """What agents said that they have in RAM, and checkpoints that nobody found unsound, as its leader knows them."""
    stored = coordinator.view.stored
    every = set(range(layers))
    versions = {version: set(stored.in_ram(version)) for version in stored.versions}
    return {version: every if stored.checkpoint_of(version) else held for version, held in versions.items()}


def _is_at(worker: Worker, version: Version) -> bool:
    """There, beyond, or one commit that is known before it."""
    held = worker.held
    return any(v is not None and v.step >= version.step for v in (held.version, held.pending))

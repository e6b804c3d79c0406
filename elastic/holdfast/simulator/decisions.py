"""Checkers of what a coordinator decides: it is held against what really is there, and against what it was told."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast.control.coordinator import Coordinator
from holdfast.model.commands import Command, ReleaseDrain, WriteOutcome, WriteStart
from holdfast.model.ids import NodeId
from holdfast.model.records import OutcomeRecord, StartRecord, Version
from holdfast.simulator.held import show
from holdfast.simulator.history import History
from holdfast.simulator.stored_copies import StoredCopies
from holdfast.simulator.wires import require
from holdfast.simulator.worker import Worker

if TYPE_CHECKING:
    from holdfast.simulator.world import World


class Decisions:
    """Told by the world; raises ViolationError."""

    def __init__(self, world: "World", history: History, stored: StoredCopies) -> None:
        self._world, self._history, self._stored = world, history, stored

    def made(self, coordinator: Coordinator, commands: Sequence[Command]) -> None:
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
        best = self._history.newest(members, _told_to(coordinator), _told_stored(coordinator, self._history.layers))
        require(
            best is None or start.version.step >= best.step,
            f"start {start.generation} is at {show(start.version)}, but members hold {show(best)}",
        )

    def _releasing(self, node: NodeId, coordinator: Coordinator) -> None:
        """What is at the newest start or beyond lies elsewhere as well, with workers not known to be gone; so does
        the newest step that all layers are found at."""
        if self._world.outcome is not None:
            return
        history, stored = self._history, self._stored
        kept = [self._world.process(ref.worker) for ref in coordinator.view.live if ref.slot.node != node]
        own = [worker for worker in self._world.workers() if worker.slot.node == node]
        others = set(coordinator.view.nodes) - {node}
        with_it = history.newest(kept + own, history.commits, stored.found(others | {node}, rotten=True))
        without = history.newest(kept, history.commits, stored.found(others, rotten=True))
        harmless = with_it is None or with_it.step == 0 or (without is not None and without.step >= with_it.step)
        require(harmless, f"{node} is released with the only copy of some layers at {show(with_it)}")
        newest = history.starts[max(history.starts)].version if history.starts else Version(0, 0)
        if newest.step == 0:
            return
        taken = {layer for worker in own if _is_at(worker, newest) for layer in worker.held.layers}
        missing = taken - {layer for worker in kept if _is_at(worker, newest) for layer in worker.held.layers}
        missing -= stored.found(others, rotten=True).get(newest, set())
        require(not missing, f"{node} is released with the only copy of some layers: {sorted(missing)}")

    def _gone(self, record: OutcomeRecord, coordinator: Coordinator) -> None:
        """A job fails for want of a copy only where there really is none, on any node that is known."""
        live = [worker for worker in self._world.workers() if not self._world.is_orphan(worker.worker)]
        nodes = coordinator.view.nodes
        members = [worker for worker in live if worker.slot.node in nodes]
        found = self._history.newest(members, _told_to(coordinator), self._stored.found(nodes.keys()))
        require(found is None, f"failed ({record.reason}), but live nodes hold all layers at {show(found)}")


def _told_to(coordinator: Coordinator) -> frozenset[Version]:
    """Commits that the coordinator knows of."""
    return frozenset(Version(commit.step, generation) for generation, commit in coordinator.view.told.items())


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

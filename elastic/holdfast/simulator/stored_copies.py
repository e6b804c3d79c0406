"""Checkers of what is stored beside live state: copies in agents' RAM, and checkpoints.

It is right, there is as much of it as was promised, and no action loses what the job could be started from.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from holdfast.model.ids import NodeId
from holdfast.model.records import CheckpointRef, CheckpointsRecord, Version
from holdfast.simulator.held import show
from holdfast.simulator.history import History
from holdfast.simulator.weights import Reference, State
from holdfast.simulator.wires import require
from holdfast.simulator.worker import Worker

if TYPE_CHECKING:
    from holdfast.simulator.world import World


class StoredCopies:
    """Told by the world; raises ViolationError."""

    def __init__(self, world: "World", reference: Reference, history: History) -> None:
        self._world, self._reference, self._history = world, reference, history
        self.checkpoints: tuple[CheckpointRef, ...] = ()  # that the store lists
        self.flipped = 0  # bytes
        self._best: Version | None = None  # as of the last action
        self._alive: tuple[object, ...] = ()
        self._safe: set[tuple[int, Version]] = set()  # versions that a vote of a generation showed to be whole

    def found(self, nodes: Collection[NodeId], *, rotten: bool = False) -> dict[Version, set[int]]:
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

    # It is right.

    def listed(self, record: CheckpointsRecord) -> None:
        """A checkpoint that the store lists is whole, and its layers are what they should be."""
        for ref in record.committed:
            blobs = self._world.storage.folders.get(ref.folder, {})
            require(ref.folder in self._world.storage.committed, f"{ref.folder} is listed, and not committed")
            lacking = set(range(self._reference.layers)) - blobs.keys()
            require(not lacking, f"{ref.folder} is listed without its layers {sorted(lacking)}")
            if ref not in self.checkpoints:
                self._check_stored(ref.version, {layer: blob.state for layer, blob in blobs.items() if blob.is_sound})
        self.checkpoints = record.committed

    def restored(self, worker: Worker, layers: Iterable[int]) -> None:
        """A worker took over what its agent fetched."""
        assert worker.held.version is not None
        self._check_stored(worker.held.version, {layer: worker.held.layers[layer] for layer in layers})

    def _check_stored(self, version: Version, layers: Mapping[int, State]) -> None:
        if not self._world.dials.salted:
            right = self._reference.states[version.step]
            wrong = sorted(layer for layer, state in layers.items() if state != right[layer])
            require(not wrong, f"what is stored as {show(version)} has wrong layers {wrong}")

    # There is as much of it as was promised.

    def kept(self, worker: Worker, version: Version) -> None:
        """A vote of its generation showed that to be whole everywhere."""
        self._safe.add((worker.generation, version))

    def overwrites(self, worker: Worker, kept: Version | None) -> None:
        """A worker is about to take a snapshot: what a vote of its generation showed to be whole everywhere must be
        there, with the copies that are wanted, as long as nobody who had a part in that is gone and no byte flipped."""
        start = self._history.starts[worker.generation]
        if kept is None or (worker.generation, kept) not in self._safe or start.plan is None or self.flipped:
            return
        nodes = start.plan.nodes
        agents = [self._world.agents[node] for node in sorted(nodes)]
        generation = self._history.generations[start.generation - 1]
        members = {ref.worker for ref in generation.members if ref.slot in start.plan.slots}
        if any(agent.dead for agent in agents) or any(self._world.worker(name) is None for name in members):
            return
        for layer in range(self._reference.layers):
            held = sum(bool(agent.tiers.ram.find(layer, (kept.step, kept.generation))) for agent in agents)
            wanted = min(self._world.job.copies + 1, len(nodes))
            require(held >= wanted, f"layer {layer} at {show(kept)} is kept by {held} nodes, and should be by {wanted}")

    # No action loses it.

    def acted(self) -> None:
        """Nothing is ever lost by what is done, only by what dies: after an action that no process went with, what
        could be started from before can be started from still, or something newer. Unless bytes flip: then what is
        kept may be rotten, and the one before is overwritten all the same."""
        if self.flipped:
            return
        before, alive = self._best, self._alive
        self._best, self._alive = self._newest(), self._processes()
        if before is None or self._alive != alive or self._world.outcome is not None or not self._history.has(before):
            return
        left = self._best is not None and self._best >= min(before, self._floor())
        require(left, f"{show(before)} could be started from, and now {show(self._best)} is what is left")

    def _newest(self) -> Version | None:
        """That could be started from now."""
        workers = [worker for worker in self._world.workers() if not self._world.is_orphan(worker.worker)]
        stored = self.found(self._world.agents.keys())
        for worker in workers:  # whose agent will hear of these in a moment
            for version, layer in worker.buffers.whole():
                stored.setdefault(version, set()).add(layer)
        return self._history.newest(workers, self._history.commits, stored)

    def _floor(self) -> Version:
        """What nobody knows to be whole may be overwritten by something newer."""
        starts = self._history.starts
        number = max(starts, default=0)
        known = [version for generation, version in self._safe if generation == number]
        return max(known, default=starts[number].version if number else Version(0, 0))

    def _processes(self) -> tuple[object, ...]:
        """That hold something. A step that somebody commits takes what it held before with it."""
        agents = [agent.member.identity.incarnation for agent in self._world.agents.values() if not agent.dead]
        held = ((worker.worker, worker.held.version) for worker in self._world.workers())
        return (*agents, *held)

"""The nodes of a replayed job, a slot each: who is there, which layers lie where, and what they say of it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from holdfast.control.job import Job
from holdfast.model.ids import NodeId, SlotId, WorkerId
from holdfast.model.measured import PaceRecord, SlotPace
from holdfast.model.plan import Plan
from holdfast.model.records import (
    AckPhase,
    GenerationRecord,
    NodeAck,
    NodeRecord,
    SlotInventory,
    SlotStart,
    SnapshotInventory,
    StartRecord,
    Version,
    WorkerRef,
)
from holdfast.planner.foresight import move_seconds
from holdfast.planner.profile import Link
from holdfast_checkpoint.placement import peer_copies

# Copies in RAM are of the commit before the last: the newest are on their way.
_BEHIND = 1


@dataclass(frozen=True, slots=True)
class Moves:
    """What a start moves between nodes, what it reads from remote storage, and what both take."""

    moved_bytes: int
    remote_bytes: int
    seconds: float


@dataclass(slots=True)
class Crew:
    """`link_bytes_per_s`: between any two of them."""

    job: Job
    link_bytes_per_s: float
    nodes: dict[NodeId, NodeRecord] = field(default_factory=dict)
    _held: dict[NodeId, frozenset[int]] = field(default_factory=dict)
    _version: Version | None = None  # of all that is held
    _in_ram: dict[NodeId, frozenset[int]] = field(default_factory=dict)
    _in_ram_version: Version | None = None
    _copies: tuple[Plan, dict[NodeId, frozenset[int]]] | None = None  # where a plan's go
    _lives: int = 0

    def add(self, node: NodeId) -> NodeRecord:
        """A node whose worker is warm; it holds nothing."""
        self._lives += 1
        ref = WorkerRef(slot=SlotId(node, 0), worker=WorkerId(f"{node}-{self._lives}"), address=f"{node}:1", pid=1)
        record = NodeRecord(
            node=node, incarnation=str(self._lives), host=node, port=2, domain=node, agent_pid=1, workers=(ref,)
        )
        self.nodes[node] = record
        return record

    def lose(self, node: NodeId) -> NodeRecord | None:
        """With all that is in its memory; None: it is not there."""
        self._held.pop(node, None)
        self._in_ram.pop(node, None)
        return self.nodes.pop(node, None)

    def committed(self, version: Version, plan: Plan, commits: int) -> None:
        """So many of them in this generation."""
        self._version = version
        if commits > _BEHIND:
            self._in_ram_version = Version(version.step - _BEHIND, version.generation)
            self._in_ram = self._copies_of(plan)

    def _copies_of(self, plan: Plan) -> dict[NodeId, frozenset[int]]:
        """By node: its own layers, and those it keeps for others."""
        if self._copies is None or self._copies[0] is not plan:
            domains = {str(node): str(node) for node in self.nodes if node in plan.nodes}
            placed = peer_copies(plan.nodes_by_layer, domains, self.job.layer_bytes, self.job.copies)
            lies = {stage.slot.node: set(stage.layers) for stage in plan.stages}
            for copyings in placed.copyings.values():
                for copying in copyings:
                    lies.setdefault(NodeId(copying.target), set()).add(copying.layer)
            self._copies = plan, {node: frozenset(layers) for node, layers in lies.items() if node in self.nodes}
        return self._copies[1]

    def moves(self, start: StartRecord) -> Moves:
        """What this start takes."""
        size, link = self.job.layer_bytes, Link(bytes_per_s=self.link_bytes_per_s)
        sent = [(move.source, move.target, size[move.layer]) for move in start.transfers]
        far = [one for one in start.restores if one.target.node not in one.sources]
        fetched = [(one.target, size[one.layer]) for one in far]
        remote_bytes = sum(size[one.layer] for one in far if not one.sources)
        return Moves(
            moved_bytes=sum(nbytes for _, _, nbytes in sent) + sum(nbytes for _, nbytes in fetched) - remote_bytes,
            remote_bytes=remote_bytes,
            seconds=move_seconds(replace(self.job.profile, between_nodes=link), sent, fetched),
        )

    def settle(self, start: StartRecord) -> None:
        """All of it has come; a node outside the plan lets go of what it had."""
        self._version = start.version
        if start.plan is not None:
            self._held = {stage.slot.node: frozenset(stage.layers) for stage in start.plan.stages}
            return
        for move in start.transfers:
            self._held[move.target.node] = self._held.get(move.target.node, frozenset()) | {move.layer}
        for one in start.restores:
            self._held[one.target.node] = self._held.get(one.target.node, frozenset()) | {one.layer}

    def acks(self, generation: GenerationRecord, phase: AckPhase) -> Iterator[NodeAck]:
        """Of all members that live."""
        for ref in generation.members:
            record = self.nodes.get(ref.slot.node)
            if record is None or record.workers[0].worker != ref.worker:
                continue
            start = SlotStart(slot=ref.slot, form_s=0.0, move_s=0.0, received=(), initialised_layers=0)
            yield NodeAck(
                generation=generation.number,
                node=record.node,
                incarnation=record.incarnation,
                phase=phase,
                inventory=(self._inventory(ref),),
                snapshots=self._snapshots(record.node),
                starts=(start,) if phase is AckPhase.RUNNING else (),
            )

    def paces(self, start: StartRecord) -> Iterator[PaceRecord]:
        """What layers take, as profiled."""
        assert start.plan is not None
        for stage in start.plan.stages:
            if stage.slot.node in self.nodes:
                pace = SlotPace(slot=stage.slot, layer_s=self._layer_s(stage.layers))
                yield PaceRecord(generation=start.generation, node=stage.slot.node, slots=(pace,))

    def _inventory(self, ref: WorkerRef) -> SlotInventory:
        layers = tuple(sorted(self._held.get(ref.slot.node, frozenset())))
        return SlotInventory(
            slot=ref.slot,
            worker=ref.worker,
            layers=layers,
            version=self._version if layers else None,
            layer_cost_s=self._layer_s(layers),
        )

    def _snapshots(self, node: NodeId) -> tuple[SnapshotInventory, ...]:
        layers = self._in_ram.get(node)
        if not layers or self._in_ram_version is None or not self.job.has_snapshots:
            return ()
        return (SnapshotInventory(version=self._in_ram_version, layers=tuple(sorted(layers))),)

    def _layer_s(self, layers: Iterable[int]) -> tuple[tuple[int, float], ...]:
        known = self.job.profile.layers
        return tuple((n, known[n].forward_s + known[n].backward_s) for n in layers)

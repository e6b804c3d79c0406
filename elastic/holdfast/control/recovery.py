"""From which step a generation starts: the newest that every layer is found at, live, in RAM or in a checkpoint.

Rules: a version is part of the history unless a later generation started from an earlier step. A rank that voted
for a step and missed the result holds complete gradients: if anyone is known to have committed that step, be it
somebody who is gone since, it rolls forward.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from holdfast.model.ids import NodeId, SlotId
from holdfast.model.records import CheckpointRef, Commit, SlotInventory, SnapshotInventory, Version

Lineage = tuple[tuple[int, int], ...]
# Each entry is one generation that committed steps; a generation's record carries them all.
_LINEAGE_MAX = 1000
# As many of each layer make a version in RAM worth more than a newer one.
_COPIES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Copies that no worker trains on. `snapshots`: what the agents of live nodes have in RAM."""

    snapshots: Mapping[NodeId, Sequence[SnapshotInventory]] = field(default_factory=dict)
    checkpoints: Sequence[CheckpointRef] = ()

    def in_ram(self, version: Version) -> dict[int, tuple[NodeId, ...]]:
        """By layer, the nodes that have a copy of that version."""
        found: dict[int, list[NodeId]] = {}
        for node in sorted(self.snapshots):
            layers = {n for held in self.snapshots[node] if held.version == version for n in held.layers}
            for layer in sorted(layers):
                found.setdefault(layer, []).append(node)
        return {layer: tuple(nodes) for layer, nodes in sorted(found.items())}

    def checkpoint_of(self, version: Version) -> str:
        """Its folder; empty where there is none."""
        return next((ref.folder for ref in self.checkpoints if ref.version == version), "")

    @property
    def versions(self) -> frozenset[Version]:
        held = {held.version for snapshots in self.snapshots.values() for held in snapshots}
        return frozenset(held | {ref.version for ref in self.checkpoints})


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What a generation starts from. `held`: layers each slot has at `version`, or will once rolled forward; `in_ram`:
    nodes whose agents have a layer at `version`; `checkpoint`: the folder that has all of them."""

    version: Version
    held: Mapping[SlotId, frozenset[int]]
    roll_forward: Commit | None
    initialise: bool
    redone_steps: int
    in_ram: Mapping[int, tuple[NodeId, ...]] = field(default_factory=dict)
    checkpoint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LostLayers:
    """No step is left at which every layer has a copy. `version`: the newest of which anything is left."""

    layers: tuple[int, ...]
    version: Version | None


def choose_basis(
    inventories: Sequence[SlotInventory],
    lineage: Lineage,
    layer_count: int,
    committed_step: int,
    told: Mapping[int, Commit] | None = None,
    stored: Stored | None = None,
) -> Basis | LostLayers:
    """`committed_step`: the newest step known to be committed, 0 for none. `told`: by generation, the newest commit
    in it that anyone told of."""
    told, stored = told or {}, stored or Stored()
    missed = {i.pending for i in inventories if i.pending is not None and _is_told(i.pending, told)}
    found = missed | {i.version for i in inventories if i.version is not None}
    committed = {version for version in found | stored.versions if is_history(version, lineage)}
    every_layer = frozenset(range(layer_count))
    for version in sorted(committed, reverse=True):
        roll_forward = _commit_of(version, inventories, told)
        # Who has voted for it is at it only if somebody can tell what to roll forward with.
        held = _held_at(version, inventories, with_pending=roll_forward is not None)
        in_ram, checkpoint = stored.in_ram(version), stored.checkpoint_of(version)
        if checkpoint or every_layer <= frozenset(in_ram).union(*held.values()):
            return Basis(
                version=version,
                held=held,
                roll_forward=roll_forward,
                initialise=False,
                redone_steps=_redone(inventories, version.step, committed_step),
                in_ram=in_ram,
                checkpoint=checkpoint,
            )
    # An initial state is made anew wherever it lacks, also where only the dead had committed the first step.
    begun = committed_step == 0 or (committed_step == 1 and bool(committed))
    begun = begun and all(start == 0 for _, start in lineage)  # a run that was resumed has no initial state
    if begun and all(version.step == 0 for version in committed):
        first = Version(0, 0)
        return Basis(
            version=first,
            held=_held_at(first, inventories),
            roll_forward=None,
            initialise=True,
            redone_steps=_redone(inventories, 0, committed_step),
        )
    newest = max(committed, default=None)
    left = set(stored.in_ram(newest)) if newest is not None else set()
    if newest is not None:
        left.update(*_held_at(newest, inventories).values())
    missing = every_layer - left
    return LostLayers(layers=tuple(sorted(missing)), version=newest)


@dataclass(frozen=True, slots=True)
class Lasting:
    """Versions that agents do not give up when a generation starts. `kept`: nor overwrites any worker it. `spare`: to
    go back to where nothing else is sound: nobody has looked at what is in RAM for a while."""

    kept: Version | None
    spare: Version | None


def lasting_in_ram(stored: Stored, lineage: Lineage, layer_count: int, started: Version) -> Lasting:
    """Of the versions that the agents' RAM alone has all layers of. Kept is the newest, on two nodes each if there is
    such a one: of a newer one whose copies are still on their way the next loss would leave nothing. Spare is the
    newest besides it that is older than `started`."""
    held = {held.version for snapshots in stored.snapshots.values() for held in snapshots}
    in_ram = {version: stored.in_ram(version) for version in held if is_history(version, lineage)}
    whole = {
        version: min(_COPIES, *map(len, nodes.values()))
        for version, nodes in in_ram.items()
        if len(nodes) == layer_count
    }
    kept = max(whole, key=lambda version: (whole[version], version), default=None)
    spare = max((version for version in whole if version < started and version != kept), default=None)
    return Lasting(kept, spare)


def is_history(version: Version, lineage: Lineage) -> bool:
    """Whether no later generation started from before `version`."""
    return all(version.step <= start for generation, start in lineage if generation > version.generation)


def extend_lineage(lineage: Lineage, generation: int, start_step: int) -> Lineage:
    """Add a generation's start; an entry whose start is not below the new one says nothing any more."""
    extended = (*(entry for entry in lineage if entry[1] < start_step), (generation, start_step))
    return extended if len(extended) <= _LINEAGE_MAX else _thinned(extended)


def _thinned(lineage: Lineage) -> Lineage:
    """In its older half one entry for every two, which refuses all that both refused, and a little of what was history
    so long ago."""
    half = len(lineage) // 4 * 2
    pairs = zip(lineage[:half:2], lineage[1:half:2], strict=True)
    return (*((later[0], earlier[1]) for earlier, later in pairs), *lineage[half:])


def _held_at(
    version: Version, inventories: Sequence[SlotInventory], *, with_pending: bool = True
) -> dict[SlotId, frozenset[int]]:
    return {
        i.slot: frozenset(i.layers)
        for i in inventories
        if i.layers and (version == i.version or (with_pending and version == i.pending))
    }


def _is_told(version: Version, told: Mapping[int, Commit]) -> bool:
    return version.generation in told and told[version.generation].step == version.step


def _commit_of(version: Version, inventories: Sequence[SlotInventory], told: Mapping[int, Commit]) -> Commit | None:
    """The commit that led to `version`, for those that missed it. Only the last one of an inventory can be it: one of
    the same step before may be of a fork."""
    if _is_told(version, told):
        return told[version.generation]
    last = (i.commits[-1] for i in inventories if i.version == version and i.commits)
    return next((commit for commit in last if commit.step == version.step), None)


def step_s(inventories: Sequence[SlotInventory]) -> float:
    """How long a step takes, by the clocks of those that committed the last ones; 0 where nobody knows."""
    spans = [
        (commits[-1].time_s - commits[0].time_s) / (commits[-1].step - commits[0].step)
        for commits in (inventory.commits for inventory in inventories)
        if len(commits) > 1 and commits[-1].step > commits[0].step
    ]
    return max(0.0, *spans) if spans else 0.0


def _redone(inventories: Sequence[SlotInventory], start_step: int, committed_step: int) -> int:
    """Steps that were begun or committed by someone and are computed again."""
    begun = [i.version.step + 1 for i in inventories if i.version is not None and i.in_flight]
    return max(0, max([committed_step, *begun]) - start_step)

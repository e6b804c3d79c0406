"""From which step a generation starts: the newest that every layer is found at.

Rules: a version is part of the history unless a later generation started from an earlier step. A rank that voted
for a step and missed the result holds complete gradients: if anyone is known to have committed that step, be it
somebody who is gone since, it rolls forward.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holdfast.model.ids import SlotId
from holdfast.model.records import Commit, SlotInventory, Version

Lineage = tuple[tuple[int, int], ...]
# Each entry is one generation that committed steps; a generation's record carries them all.
_LINEAGE_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What a generation starts from. `held`: layers each slot has at `version`, or will once rolled forward."""

    version: Version
    held: Mapping[SlotId, frozenset[int]]
    roll_forward: Commit | None
    initialise: bool
    redone_steps: int


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
) -> Basis | LostLayers:
    """`committed_step`: the newest step known to be committed, 0 for none. `told`: by generation, the newest commit
    in it that anyone told of."""
    told = told or {}
    missed = {i.pending for i in inventories if i.pending is not None and _is_told(i.pending, told)}
    found = missed | {i.version for i in inventories if i.version is not None}
    committed = {version for version in found if is_history(version, lineage)}
    every_layer = frozenset(range(layer_count))
    for version in sorted(committed, reverse=True):
        held = _held_at(version, inventories)
        if frozenset[int]().union(*held.values()) == every_layer:
            return Basis(
                version=version,
                held=held,
                roll_forward=_commit_of(version, inventories, told),
                initialise=False,
                redone_steps=_redone(inventories, version.step, committed_step),
            )
    # An initial state is made anew wherever it lacks, also where only the dead had committed the first step.
    begun = committed_step == 0 or (committed_step == 1 and bool(committed))
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
    left = _held_at(newest, inventories) if newest is not None else {}
    missing = every_layer - frozenset[int]().union(*left.values())
    return LostLayers(layers=tuple(sorted(missing)), version=newest)


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


def _held_at(version: Version, inventories: Sequence[SlotInventory]) -> dict[SlotId, frozenset[int]]:
    return {i.slot: frozenset(i.layers) for i in inventories if i.layers and version in (i.version, i.pending)}


def _is_told(version: Version, told: Mapping[int, Commit]) -> bool:
    return version.generation in told and told[version.generation].step == version.step


def _commit_of(version: Version, inventories: Sequence[SlotInventory], told: Mapping[int, Commit]) -> Commit | None:
    """The commit that led to `version`, for those that missed it. Only the last one of an inventory can be it: one of
    the same step before may be of a fork."""
    if _is_told(version, told):
        return told[version.generation]
    last = (i.commits[-1] for i in inventories if i.version == version and i.commits)
    return next((commit for commit in last if commit.step == version.step), None)


def _redone(inventories: Sequence[SlotInventory], start_step: int, committed_step: int) -> int:
    """Steps that were begun or committed by someone and are computed again."""
    begun = [i.version.step + 1 for i in inventories if i.version is not None and i.in_flight]
    return max(0, max([committed_step, *begun]) - start_step)

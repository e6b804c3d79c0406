"""Which slot takes which place: fewest bytes moved, copies of a layer in different failure domains."""

from dataclasses import dataclass

from holdfast.model.ids import SlotId
from holdfast.planner.assignment import assign
from holdfast.planner.repair import Lineup, improve
from holdfast.planner.site import Place, Site

# The local search weighs every pair of slots, which for more slots than this would take longer than moving layers.
_SEARCHED_SLOTS_MAX = 128


@dataclass(frozen=True, slots=True)
class Placement:
    """The slot of each place, in rank order."""

    slots: tuple[SlotId, ...]
    moved_bytes: int
    copies: int  # domains that the worst-off layer lies in


def place(site: Site) -> Placement:
    """A slot for each place.

    Where every slot is a domain of its own, or the assignment of fewest bytes keeps copies apart anyway, the bytes are
    the fewest possible. Else they are the fewest that a local search finds while it sets copies apart.
    """
    cheapest = Lineup(site, _assigned(site))
    best = cheapest
    if len(set(site.domains.values())) < len(site.slots) <= _SEARCHED_SLOTS_MAX:
        best = improve(site, cheapest.taken)
        if best.rank[:2] > (0, cheapest.moved_bytes):
            best = min(best, improve(site, _in_order(site)), key=lambda lineup: lineup.rank)
    return Placement(best.taken, best.moved_bytes, best.copies)


def _in_order(site: Site) -> tuple[SlotId, ...]:
    """Domain after domain along the pipelines: neighbouring stages share nodes, and a domain no larger than a pipeline
    wraps into the next one without meeting the same layers again (McNaughton's wrap-around rule).
    """
    sizes: dict[str, int] = {}
    for slot in site.slots:
        sizes[site.domains[slot]] = sizes.get(site.domains[slot], 0) + 1
    lines = [
        iter(sorted(group, key=lambda slot: (-sizes[site.domains[slot]], site.domains[slot], slot)))
        for group in site.groups
    ]
    return tuple(next(lines[place.group]) for place in site.places)


def _assigned(site: Site) -> tuple[SlotId, ...]:
    """Each group's assignment of fewest bytes; where bytes tie, near the place that `_in_order` gives."""
    home = {slot: place for slot, place in zip(_in_order(site), site.places, strict=True)}
    taken: list[SlotId | None] = [None] * len(site.places)
    for number, slots in enumerate(site.groups):
        ranks = [rank for rank, place in enumerate(site.places) if place.group == number]
        scale = 2 * len(ranks) + 1  # More than all ties together can cost.
        costs = []
        for rank in ranks:
            at = site.places[rank]
            costs.append([site.lacking(slot, at.layers) * scale + _distance(home.get(slot), at) for slot in slots])
        for rank, column in zip(ranks, assign(costs), strict=True):
            taken[rank] = slots[column]
    return tuple(slot for slot in taken if slot is not None)


def _distance(home: Place | None, at: Place) -> int:
    if home == at:
        return 0
    return 1 if home is not None and home.pipeline == at.pipeline else 2

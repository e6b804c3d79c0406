"""Which slot takes which place: fewest bytes moved, copies of a layer in different failure domains."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from holdfast.model.ids import SlotId
from holdfast.model.plan import Span
from holdfast.planner.assignment import assign
from holdfast.planner.repair import Lineup, improve
from holdfast.planner.site import Place, Site
from holdfast.planner.transport import transport

# The local search weighs every pair of slots, which for more slots than this would take longer than moving layers.
_SEARCHED_SLOTS_MAX = 128
# Above, slots are assigned by kind: a cost for each pair of slot and place takes time and memory with their square.
_ASSIGNED_SLOTS_MAX = 256


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
        if len(slots) > _ASSIGNED_SLOTS_MAX:
            for rank, slot in _assigned_by_kind(site, ranks, slots, home):
                taken[rank] = slot
            continue
        scale = 2 * len(ranks) + 1  # More than all ties together can cost.
        homes = [home.get(slot) for slot in slots]
        spans = {site.places[rank].layers for rank in ranks}
        lacking = {span: [site.lacking(slot, span) * scale for slot in slots] for span in spans}
        costs = [
            [size + _distance(near, at) for size, near in zip(lacking[at.layers], homes, strict=True)]
            for at in map(site.places.__getitem__, ranks)
        ]
        for rank, column in zip(ranks, assign(costs), strict=True):
            taken[rank] = slots[column]
    return tuple(slot for slot in taken if slot is not None)


def _assigned_by_kind(
    site: Site, ranks: Sequence[int], slots: Sequence[SlotId], home: Mapping[SlotId, Place]
) -> Iterator[tuple[int, SlotId]]:
    """The same for very many slots: those that hold the same layers are one kind, places of the same layers another.

    Fewest bytes as well. Of a kind, who is at home in a place of such layers goes first, and all in order.
    """
    spans = sorted({site.places[rank].layers for rank in ranks})
    wanted = {span: [rank for rank in ranks if site.places[rank].layers == span] for span in spans}
    rank_of = {place: rank for rank, place in enumerate(site.places)}
    held: dict[frozenset[int], list[SlotId]] = {}
    for slot in sorted(slots, key=lambda slot: rank_of[home[slot]] if slot in home else len(rank_of)):
        held.setdefault(site.held.get(slot, frozenset()), []).append(slot)
    kinds = list(held.values())
    costs = [[site.lacking(kind[0], span) for span in spans] for kind in kinds]
    flow = transport([len(kind) for kind in kinds], [len(wanted[span]) for span in spans], costs)
    given: dict[Span, list[SlotId]] = {span: [] for span in spans}
    for number, kind in enumerate(kinds):
        left = kind
        for at, span in enumerate(spans):
            left.sort(key=lambda slot: slot not in home or home[slot].layers != span)
            count = flow.get((number, at), 0)
            given[span] += left[:count]
            left = left[count:]
    for span in spans:
        yield from zip(wanted[span], given[span], strict=True)


def _distance(home: Place | None, at: Place) -> int:
    if home == at:
        return 0
    return 1 if home is not None and home.pipeline == at.pipeline else 2

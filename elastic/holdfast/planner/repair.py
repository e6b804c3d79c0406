"""Local search over placements: swap slots until copies lie apart and no swap saves bytes or hops between nodes."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

from holdfast.model.ids import SlotId
from holdfast.planner.site import Site

# Sweeps over all pairs of slots; in practice it settles in two or three.
_SWEEPS_MAX = 8

Rank: TypeAlias = tuple[int, int, int]


class Lineup:
    """Who stands where, with everything that a swap changes kept up to date.

    `_line` holds the slots of the places in rank order, then the idle ones. Slots are numbers here, since a search
    looks at every pair of them.
    """

    def __init__(self, site: Site, taken: Sequence[SlotId]):
        self._slots = site.slots
        number = {slot: index for index, slot in enumerate(self._slots)}
        self._line = [number[slot] for slot in [*taken, *sorted(set(self._slots) - set(taken))]]
        self._segments = site.segments
        self._pipelines = [place.pipeline for place in site.places]
        self._domain = [site.domains[slot] for slot in self._slots]
        self._node = [slot.node for slot in self._slots]
        group_of = {slot: index for index, group in enumerate(site.groups) for slot in group}
        self._group = [group_of[slot] for slot in self._slots]
        spans = {place.layers for place in site.places}
        costs = {span: [site.lacking(slot, span) for slot in self._slots] for span in spans}
        self._costs = [costs[place.layers] for place in site.places]
        self._copies = site.copies
        self._domains: list[Counter[str]] = [Counter() for _ in range(max(part.stop for part in self._segments))]
        self._short = self._copies * len(self._domains)
        for at in range(len(self._segments)):
            self._put(at, 1)
        self._refresh()

    @property
    def taken(self) -> tuple[SlotId, ...]:
        """The slot of each place."""
        return tuple(self._slots[slot] for slot in self._line[: len(self._segments)])

    @property
    def copies(self) -> int:
        """Domains that the worst-off layer lies in."""
        return min(map(len, self._domains))

    @property
    def moved_bytes(self) -> int:
        """Bytes of layers that slots lack where they stand."""
        return sum(costs[slot] for costs, slot in zip(self._costs, self._line, strict=False))

    @property
    def rank(self) -> Rank:
        """What to minimise: copies that segments lack, bytes moved, hops between nodes along the pipelines."""
        return self._short, self.moved_bytes, sum(self._hops)

    def sweep(self) -> bool:
        """Try to swap each pair of slots, keeping every swap that lowers `rank`; True if one did."""
        changed = False
        line, group, count = self._line, self._group, len(self._segments)
        for a in range(count):
            for b in range(a + 1, len(line)):
                if group[line[a]] == group[line[b]] and self._try(a, b):
                    self._refresh()
                    changed = True
        return changed

    def _try(self, a: int, b: int) -> bool:
        """Swap if that lowers `rank`."""
        one, other = self._line[a], self._line[b]
        places = (a, b) if b < len(self._segments) else (a,)
        moved = self._costs[a][other] - self._costs[a][one]
        if len(places) == 2:
            moved += self._costs[b][one] - self._costs[b][other]
        # More bytes, or as many, may only be paid where copies lie together now.
        crowded = self._domain[one] != self._domain[other] and any(self._crowded[at] for at in places)
        if moved > 0 and not crowded:
            return False
        if moved == 0 and not crowded and (self._node[one] == self._node[other] or not self._near_hop(places)):
            return False
        before = self._short, 0, sum(self._hops)
        self._swap(a, b)
        if (self._short, moved, sum(self._count_hops())) < before:
            return True
        self._swap(a, b)
        return False

    def _swap(self, a: int, b: int) -> None:
        places = (a, b) if b < len(self._segments) else (a,)
        for at in places:
            self._put(at, -1)
        self._line[a], self._line[b] = self._line[b], self._line[a]
        for at in places:
            self._put(at, 1)

    def _put(self, at: int, copies: int) -> None:
        """Add (1) or take away (-1) the copies of a place."""
        domain = self._domain[self._line[at]]
        for segment in self._segments[at]:
            held = self._domains[segment]
            before = len(held)
            held[domain] += copies
            if not held[domain]:
                del held[domain]
            self._short += max(0, self._copies - len(held)) - max(0, self._copies - before)

    def _refresh(self) -> None:
        self._hops = self._count_hops()
        lacking = [len(domains) < self._copies for domains in self._domains]
        self._crowded = [any(lacking[segment] for segment in part) for part in self._segments]

    def _near_hop(self, places: Sequence[int]) -> bool:
        return any(self._hops[at] or self._hops[at + 1] for at in places)

    def _count_hops(self) -> list[bool]:
        """For each place whether its activations come from another node; one more at the end, for the loss."""
        node, pipelines = self._node, self._pipelines
        inner = [
            pipelines[at] == pipelines[at + 1] and node[here] != node[there]
            for at, (here, there) in enumerate(pairwise(self._line[: len(pipelines)]))
        ]
        return [False, *inner, False]


def improve(site: Site, start: Sequence[SlotId]) -> Lineup:
    """The placement that swaps lead to from `start`."""
    lineup = Lineup(site, start)
    for _ in range(_SWEEPS_MAX):
        if not lineup.sweep():
            break
    return lineup

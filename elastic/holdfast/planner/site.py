"""The places of a plan, before slots are given to them, and what a slot would cost there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from holdfast.model.ids import SlotId
from holdfast.model.plan import Span


@dataclass(frozen=True, slots=True)
class Place:
    """One stage to be given a slot; `group` says which slots may take it."""

    pipeline: int
    layers: Span
    group: int


@dataclass(frozen=True, kw_only=True)
class Site:
    """What placement is decided on."""

    places: tuple[Place, ...]  # in rank order
    groups: tuple[tuple[SlotId, ...], ...]  # slots that the places of each group may take, sorted
    domains: Mapping[SlotId, str]
    held: Mapping[SlotId, frozenset[int]]
    layer_bytes: tuple[int, ...]
    copies: int  # wanted, in different domains

    @cached_property
    def slots(self) -> tuple[SlotId, ...]:
        return tuple(sorted(slot for group in self.groups for slot in group))

    @cached_property
    def lacking(self) -> Callable[[SlotId, Span], int]:
        """Bytes of a span's layers that a slot lacks."""
        sums_of: dict[frozenset[int], list[int]] = {}
        for slot in self.slots:
            layers = self.held.get(slot, frozenset())
            if layers not in sums_of:
                sizes = [0 if layer in layers else size for layer, size in enumerate(self.layer_bytes)]
                sums_of[layers] = [0, *accumulate(sizes)]
        sums = {slot: sums_of[self.held.get(slot, frozenset())] for slot in self.slots}
        return lambda slot, span: sums[slot][span.stop] - sums[slot][span.start]

    @cached_property
    def segments(self) -> tuple[range, ...]:
        """The segments (runs of layers between two cuts of any pipeline) of each place, by number from 0."""
        starts = sorted({place.layers.start for place in self.places})
        number = {start: index for index, start in enumerate([*starts, len(self.layer_bytes)])}
        return tuple(range(number[place.layers.start], number[place.layers.stop]) for place in self.places)

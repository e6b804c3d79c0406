"""Which shapes come into question for a request, the best first."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TypeAlias

from holdfast.errors import NoPlanError
from holdfast.model.ids import SlotId
from holdfast.planner.exhaustive import Chains, Exhaustive, Wanted
from holdfast.planner.packing import Packing
from holdfast.planner.partition import Kind, Partition
from holdfast.planner.request import Request
from holdfast.planner.shapes import Group, Grouping, Limits, Outline, free_outlines, steep_depths
from holdfast.planner.staffing import Crew, Shape, Staff

# Up to so many slots and layers the best of all shapes is found, above them a good one.
EXACT_SLOTS_MAX = 8
EXACT_LAYERS_MAX = 12
# Where slots differ and are many, so many kinds are told apart; if there are more, speeds count in steps of a twentieth
# and memory in steps of a sixteenth of the largest, both rounded down.
_KINDS_MAX = 8
# Where slots differ and are many, so many numbers of pipelines are staffed, those that promise most.
_STAFFED_MAX = 8
# The slowest kinds that may be left idle together.
_LEFT_OUT_MAX = 4

# (ticks of a step, slots that idle, pipelines, bound): what is minimised.
Rank: TypeAlias = tuple[int, int, int, int]


class Candidates:
    """Shapes for one request; `domains` tells the slots of each failure domain."""

    def __init__(self, request: Request, domains: Mapping[str, tuple[SlotId, ...]]):
        if not request.slots:
            raise NoPlanError("no usable slot")
        self._request, self._domains = request, domains
        self._all = Group(request.slots)
        self.is_exact = len(request.slots) <= EXACT_SLOTS_MAX and len(request.layer_costs) <= EXACT_LAYERS_MAX
        self.kind_of, kinds = _kinds(request, self.is_exact)
        costs = request.in_ticks()
        self.partition = Partition(costs, kinds, exact=self.is_exact)
        self._staff = Staff(self.kind_of, kinds, self.partition)
        # As if all slots were as fast and as large as the best: what no shape can do better.
        self._ideal = self.partition if len(kinds) == 1 else Partition(costs, [_ideal(kinds)], exact=False)
        self._speed_sum = sum(kinds[kind].speed for kind in self.kind_of.values()) / max(kind.speed for kind in kinds)
        self._counts = tuple(list(self.kind_of.values()).count(kind) for kind in range(len(kinds)))
        self.limits = self._limits()

    def levels(self, copies: int) -> Iterator[list[int]]:
        """Numbers of pipelines, those first that are to be preferred whatever a step takes."""
        numbers = range(copies, min(len(self._request.slots), self._request.blocks) + 1)
        if self._request.depth is None:
            yield list(numbers)
            return
        wanted = max(len(self._request.slots) // self._request.depth, copies)
        ranked: dict[tuple[int, int], list[int]] = {}
        for pipelines in numbers:
            for outline in self._free(self._all, pipelines):
                ranked.setdefault((outline.idle, abs(pipelines - wanted)), []).append(pipelines)
                break
        yield from (level for _, level in sorted(ranked.items()))

    def ranked(self, copies: int, numbers: Sequence[int]) -> list[Shape]:
        """Shapes with so many pipelines that may have so many copies, the best first."""
        found: list[tuple[Rank, Shape]] = []
        rest: Sequence[int] = numbers
        while rest and not found:
            tried, rest = self._promising(rest)
            for kept in self._staff.without_slowest(self._request.slots, _LEFT_OUT_MAX):
                for outline in self._outlines(kept, copies, tried):
                    for shape in self._staff.shapes(outline):
                        if (rank := self._rank(shape, outline.is_bound)) is not None:
                            found.append((rank, shape))
        if found and not self.is_exact and self._request.depth is None:
            found += self._packed(copies, min(found, key=lambda pair: pair[0])[1])
        order = sorted(range(len(found)), key=lambda number: found[number][0])
        return [found[number][1] for number in order]

    def _packed(self, copies: int, known: Shape) -> Iterator[tuple[Rank, Shape]]:
        """What is faster than the best known with slots of a kind by themselves."""
        packing = Packing(self.partition, self._counts, self.limits)
        chains = packing.faster_than(self.step_ticks(known))
        shape = self._shape(chains) if chains else None
        if shape and shape.pipelines >= copies and (rank := self._rank(shape, False)) is not None:
            yield rank, shape

    def improved(self, known: Shape | None, numbers: Sequence[int], accept: Callable[[Shape], bool]) -> Shape | None:
        """The best of all shapes that is accepted; None where that is no better than what is known."""
        runs = None
        if self._request.depth is not None:
            runs = frozenset(
                outline.runs[0]
                for pipelines in numbers
                for employed in range(len(self._request.slots), 0, -1)
                for outline in self._free(Group(self._request.slots[:employed]), pipelines)
            )
        search = Exhaustive(
            self.partition,
            Wanted(
                counts=self._counts,
                pipelines=frozenset(numbers),
                runs=runs,
                blocks=self._request.blocks,
                block_size=self._request.block_size,
                accept=lambda chains: accept(self._shape(chains)),
            ),
        )
        rank = self._rank(known, False) if known else None
        chains = search.better_than(rank[:3] if rank else None)
        return self._shape(chains) if chains else None

    def step_ticks(self, shape: Shape) -> int:
        """What a step takes."""
        ticks = shape.step_ticks(self._request.blocks, self._request.block_size)
        assert ticks is not None, "a shape that was found has blocks enough"
        return ticks

    def could_employ(self, employed: int, copies: int) -> bool:
        """Whether some shape has more slots at work than so many."""
        most_idle = len(self._request.slots) - employed
        numbers = range(copies, min(len(self._request.slots), self._request.blocks) + 1)
        return any(outline.idle < most_idle for pipelines in numbers for outline in self._free(self._all, pipelines))

    def _shape(self, chains: Chains) -> Shape:
        return Shape((Crew(self._all, chains),))

    def _rank(self, shape: Shape, is_bound: bool) -> Rank | None:
        ticks = shape.step_ticks(self._request.blocks, self._request.block_size)
        if ticks is None:
            return None
        return ticks, len(self._request.slots) - shape.employed, shape.pipelines, int(is_bound)

    def _outlines(self, slots: tuple[SlotId, ...], copies: int, numbers: Sequence[int]) -> Iterator[Outline]:
        kept, group = set(slots), Group(slots)
        domains = {d: tuple(s for s in members if s in kept) for d, members in self._domains.items()}
        domains = {domain: members for domain, members in domains.items() if members}
        largest = max(map(len, domains.values()))
        grouping = None
        if 1 < copies <= len(domains) < len(slots):
            grouping = Grouping(domains, copies, self.limits)
        for pipelines in numbers:
            for outline in self._free(group, pipelines):
                if _may_part(outline, copies, largest):
                    yield outline
            if grouping:
                yield from grouping.outlines(pipelines)

    def _free(self, group: Group, pipelines: int) -> Iterator[Outline]:
        return free_outlines(group, pipelines, self.limits)

    def _promising(self, numbers: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        """Numbers of pipelines to staff now, and those left for when these come to nothing."""
        if len(self._counts) == 1 or len(numbers) <= _STAFFED_MAX:
            return numbers, ()
        worth = self._worth
        ordered = sorted(numbers, key=lambda pipelines: (worth.get(pipelines, float("inf")), pipelines))
        return ordered[:_STAFFED_MAX], ordered[_STAFFED_MAX:]

    @cached_property
    def _worth(self) -> Mapping[int, float]:
        """What a step would take with so many pipelines if as few slots as are worth all these were all alike."""
        slots = self._request.slots[: max(1, int(self._speed_sum))]
        group = Group(slots)
        alike = Staff(dict.fromkeys(slots, 0), [Kind(1.0, None)], self._ideal)
        found: dict[int, float] = {}
        for pipelines in range(1, min(len(slots), self._request.blocks) + 1):
            for outline in self._free(group, pipelines):
                for shape in alike.shapes(outline):
                    ticks = shape.step_ticks(self._request.blocks, self._request.block_size)
                    if ticks is not None:
                        found[pipelines] = min(ticks, found.get(pipelines, ticks))
        return found

    def _limits(self) -> Limits:
        request = self._request
        slots = len(request.slots)
        most = min(slots, len(request.layer_costs), request.blocks * request.block_size)
        copies = min(request.copies, len(self._domains), request.blocks)
        even, bottlenecks = -(-slots // copies), dict[int, int]()
        for depth in range(1, most + 1):
            # With many slots little is gained by pipelines far deeper than the wanted copies are if they are even.
            if not self.is_exact and depth > even * 5 // 4 + 1 and min(bottlenecks, default=slots) <= slots // copies:
                break
            if chains := self._ideal.chains((depth,)):
                bottlenecks[depth] = chains[0].bottleneck
        if not bottlenecks:
            raise NoPlanError(self.refusal(most))
        depths = tuple(bottlenecks)
        steep = steep_depths(bottlenecks) if request.depth is None else depths
        return Limits(depths=depths, steep=steep, blocks=request.blocks, block_size=request.block_size)

    def refusal(self, stages_most: int | None = None) -> str:
        """Why nothing fits."""
        request = self._request
        stages = stages_most or min(len(request.slots), len(request.layer_costs), request.blocks * request.block_size)
        resident = request.resident_bytes or request.layer_bytes
        memory = max(request.memory(slot) or 0 for slot in request.slots)
        return (
            f"memory_per_slot_bytes: {memory} is too little for {len(resident)} layers of {sum(resident)} bytes (the "
            f"largest has {max(resident)}) in at most {stages} stages; give more slots, memory, or microbatches"
        )


def _kinds(request: Request, is_exact: bool) -> tuple[dict[SlotId, int], list[Kind]]:
    """The kind of each slot, and the kinds: the roomiest first, since first stages keep most activations."""
    kind_of = {slot: Kind(request.speed(slot), request.memory(slot)) for slot in request.slots}
    if len(set(kind_of.values())) > _KINDS_MAX and not is_exact:
        largest = max(kind.memory_bytes or 0 for kind in kind_of.values())
        kind_of = {slot: _rounded(kind, largest) for slot, kind in kind_of.items()}
    kinds = sorted(set(kind_of.values()), key=lambda kind: (-_bytes(kind), -kind.speed))
    number = {kind: index for index, kind in enumerate(kinds)}
    return {slot: number[kind_of[slot]] for slot in request.slots}, kinds


def _rounded(kind: Kind, largest: int) -> Kind:
    memory = kind.memory_bytes
    speed = int(kind.speed * 20) / 20 or kind.speed
    return Kind(speed, None if memory is None else max(1, memory * 16 // max(1, largest)) * largest // 16)


def _bytes(kind: Kind) -> float:
    return float("inf") if kind.memory_bytes is None else kind.memory_bytes


def _ideal(kinds: Sequence[Kind]) -> Kind:
    most = max(map(_bytes, kinds))
    return Kind(max(kind.speed for kind in kinds), None if most == float("inf") else int(most))


def _may_part(outline: Outline, copies: int, largest: int) -> bool:
    """A quick test that spares hopeless placements.

    Of a layer's copies all but `copies - 1` may share a domain, so no domain may be larger than so many pipelines and
    the slots that idle.
    """
    kept, room = outline.pipelines - copies + 1, outline.idle
    for depth, count in outline.runs[0]:
        room += depth * max(0, min(count, kept))
        kept -= count
    return largest <= room

"""The first planner: which pipelines, which cuts, which shares, which slots. Called at every generation, on its way.

Searches all numbers of pipelines with depths as even as can be. Measured bandwidth, slots of different speed and what
a transition costs are not weighed yet; of two layouts within 5 % the one that moves less wins, and that is all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite

from holdfast.errors import NoPlanError
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.plan import Pipeline, Plan, Stage
from holdfast.planner.cost import reduction_time, to_ticks
from holdfast.planner.partition import Cuts, Partition
from holdfast.planner.placement import Placement, place
from holdfast.planner.shapes import Grouping, Limits, Runs, Shape, even_shape
from holdfast.planner.shares import Pace, makespan, share
from holdfast.planner.site import Place, Site

# Cuts that match what slots hold are kept while the slowest stage stays within this share of the best.
KEPT_CUTS_SLACK = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to plan for."""

    slots: tuple[SlotId, ...]  # usable; sorted here
    layer_costs: tuple[float, ...]  # forward and backward of one microbatch: seconds, or relative
    layer_bytes: tuple[int, ...]
    blocks: int  # of the global batch
    block_size: int  # microbatches
    depth: int | None = None  # wanted stages a pipeline; None: the planner decides
    memory_per_slot_bytes: int | None = None
    domains: Mapping[NodeId, str] = field(default_factory=dict)  # failure domain; a node not listed is its own
    held: Mapping[SlotId, frozenset[int]] = field(default_factory=dict)  # layers at the step to start from
    copies: int = 2  # wanted of each layer, in different failure domains

    def __post_init__(self) -> None:
        object.__setattr__(self, "slots", tuple(sorted(self.slots)))
        if len(set(self.slots)) != len(self.slots):
            raise ValueError(f"slots: {[str(slot) for slot in self.slots]} should name each slot once")
        if not self.layer_costs or len(self.layer_costs) != len(self.layer_bytes):
            raise ValueError(
                f"layer_costs: {len(self.layer_costs)} given for {len(self.layer_bytes)} layer_bytes; "
                "should be as many, and at least one"
            )
        if not all(isfinite(cost) and cost >= 0 for cost in self.layer_costs) or min(self.layer_bytes) < 0:
            raise ValueError("layer_costs and layer_bytes: should be finite and not negative")
        for name in ("blocks", "block_size", "copies"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} should be at least 1")
        if self.depth is not None and self.depth < 1:
            raise ValueError(f"depth: {self.depth} should be at least 1, or None")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A plan, what it is worth, and why it is no better."""

    plan: Plan
    step_cost: float  # predicted, in the unit of layer_costs
    copies: int  # different failure domains that the worst-off layer lies in
    moved_bytes: int  # of layers that slots of the plan lack
    idle: tuple[SlotId, ...]
    reasons: tuple[str, ...]  # wishes that could not be met and preferences that decided, for the log


@dataclass(frozen=True, slots=True)
class _Layout:
    """A shape with cuts and slots: all but the shares."""

    shape: Shape
    cuts: Mapping[int, Cuts]  # by depth
    site: Site
    placement: Placement


def plan(request: Request) -> Decision:
    """The best layout for `request`: as many copies as wanted or possible, then no slot idle, then the wanted depth or
    else the shortest step, then the fewest bytes to move.

    Raises:
        NoPlanError: there is no slot, or the model does not fit into the memory of all slots together.
    """
    return _Search(request).decide()


class _Search:
    def __init__(self, request: Request):
        self._request = request
        self._ticks, self._tick = to_ticks(request.layer_costs)
        self._domain_of = {slot: request.domains.get(slot.node, str(slot.node)) for slot in request.slots}
        slots_of: dict[str, list[SlotId]] = {}
        for slot in request.slots:
            slots_of.setdefault(self._domain_of[slot], []).append(slot)
        self._slots_of = {domain: tuple(slots) for domain, slots in slots_of.items()}
        self._largest_domain = max(map(len, self._slots_of.values()), default=0)
        self._total_bytes, self._total_ticks = sum(request.layer_bytes), sum(self._ticks)
        self._largest_stages: dict[int, int] = {}
        depth_max = min(len(request.slots), len(request.layer_costs), request.blocks * request.block_size)
        self._partition = Partition(self._ticks, request.layer_bytes, request.memory_per_slot_bytes, depth_max)
        self._limits = Limits(
            depth_least=self._depth_least(depth_max),
            depth_most=depth_max,
            blocks=request.blocks,
            block_size=request.block_size,
        )

    def decide(self) -> Decision:
        layout = self._copied_layout()
        familiar = self._familiar(layout)
        return self._decision(familiar or layout, kept=layout if familiar else None)

    def _depth_least(self, depth_max: int) -> int:
        request = self._request
        if not request.slots:
            raise NoPlanError("no usable slot")
        least = self._partition.depth_least
        if least is None:
            raise NoPlanError(
                f"memory_per_slot_bytes: {request.memory_per_slot_bytes} is too little for {len(request.layer_bytes)} "
                f"layers of {sum(request.layer_bytes)} bytes (the largest has {max(request.layer_bytes)}) in at most "
                f"{depth_max} stages; give more slots, memory, or microbatches"
            )
        return least

    def _copied_layout(self) -> _Layout:
        """The best shape that has the wanted copies, or as few less as need be."""
        wanted = min(self._request.copies, len(self._slots_of))
        layouts = (
            self._laid_out(shape, {depth: self._partition.cuts(depth) for depth, _ in shape.runs}, copies)
            for copies in range(wanted, 0, -1)
            for shape in self._shapes(copies)
        )
        # One copy is what any layout has, and one pipeline as deep as memory asks for always is one.
        return next(layout for layout in layouts if layout.placement.copies >= layout.site.copies)

    def _shapes(self, copies: int) -> Iterator[Shape]:
        """Shapes that may have so many copies, the best first; those that cannot be the best are not worked out."""
        ranked: dict[tuple[int, int], list[tuple[Shape, int]]] = {}
        grouping = None
        if copies > 1 and len(self._slots_of) < len(self._request.slots):
            grouping = Grouping(self._slots_of, copies, self._limits)
        for pipelines in range(copies, min(len(self._request.slots), self._request.blocks) + 1):
            distance = self._distance(pipelines, copies)
            free = even_shape(self._request.slots, pipelines, self._limits)
            bound = grouping.shape(pipelines) if grouping else None
            if free and self._may_part(free, copies):
                ranked.setdefault((free.idle, distance), []).append((free, 0))
            if bound:
                ranked.setdefault((bound.idle, distance), []).append((bound, 1))
        for _, level in sorted(ranked.items()):
            # Of as many pipelines the free shape before the bound one.
            keys = [(self._step_ticks(shape.runs), shape.pipelines, bound) for shape, bound in level]
            yield from (level[number][0] for number in sorted(range(len(level)), key=keys.__getitem__))

    def _distance(self, pipelines: int, copies: int) -> int:
        """How far so many pipelines are from the wanted depth."""
        if self._request.depth is None:
            return 0
        return abs(pipelines - max(len(self._request.slots) // self._request.depth, copies))

    def _may_part(self, shape: Shape, copies: int) -> bool:
        """A quick test that spares hopeless placements.

        Of a layer's copies all but `copies - 1` may share a domain, so no domain may be larger than so many pipelines.
        """
        kept, room = shape.pipelines - copies + 1, shape.idle
        for depth, count in shape.runs:
            room += depth * max(0, min(count, kept))
            kept -= count
        return self._largest_domain <= room

    def _pace(self, depth: int, cuts: Mapping[int, Cuts] | None = None) -> Pace:
        return Pace(depth, self._partition.slowest(cuts[depth]) if cuts else self._partition.bottleneck(depth))

    def _step_ticks(self, runs: Runs, cuts: Mapping[int, Cuts] | None = None) -> float:
        kinds = {self._pace(depth, cuts): count for depth, count in runs}
        ticks = makespan(kinds, self._request.blocks, self._request.block_size)
        assert ticks is not None, f"shape {runs} has more stages than microbatches"
        shallowest = runs[-1][0]
        largest = self._partition.largest(cuts[shallowest]) if cuts else self._largest_stage(shallowest)
        pipelines = sum(count for _, count in runs)
        return ticks + reduction_time(pipelines, largest, self._total_bytes, self._total_ticks)

    def _largest_stage(self, depth: int) -> int:
        if depth not in self._largest_stages:
            self._largest_stages[depth] = self._partition.largest(self._partition.cuts(depth))
        return self._largest_stages[depth]

    def _laid_out(self, shape: Shape, cuts: Mapping[int, Cuts], copies: int) -> _Layout:
        # Deepest pipelines first, whatever their group.
        order = sorted(
            ((depth, number) for number, group in enumerate(shape.groups) for depth in group.depths),
            key=lambda pipeline: (-pipeline[0], pipeline[1]),
        )
        site = Site(
            places=tuple(
                Place(pipeline, span, number) for pipeline, (depth, number) in enumerate(order) for span in cuts[depth]
            ),
            groups=tuple(group.slots for group in shape.groups),
            domains=self._domain_of,
            held=self._request.held,
            layer_bytes=self._request.layer_bytes,
            copies=copies,
        )
        return _Layout(shape, cuts, site, place(site))

    def _familiar(self, layout: _Layout) -> _Layout | None:
        """The same shape with cuts closer to what is held, where that moves fewer bytes; else None."""
        held = [self._request.held[slot] for slot in self._request.slots if self._request.held.get(slot)]
        if not held or not layout.placement.moved_bytes:
            return None
        cuts = {
            depth: self._partition.familiar_cuts(depth, held, KEPT_CUTS_SLACK) for depth in sorted(set(layout.cuts))
        }
        if cuts == layout.cuts:
            return None
        other = self._laid_out(layout.shape, cuts, layout.site.copies)
        fewer = other.placement.moved_bytes < layout.placement.moved_bytes
        return other if fewer and other.placement.copies >= layout.placement.copies else None

    def _decision(self, layout: _Layout, kept: _Layout | None) -> Decision:
        request, taken = self._request, iter(layout.placement.slots)
        depths, pace_of = layout.shape.depths, {depth: self._pace(depth, layout.cuts) for depth in layout.cuts}
        blocks = share([pace_of[depth] for depth in depths], request.blocks, request.block_size)
        chosen = Plan(
            tuple(
                Pipeline(tuple(Stage(next(taken), span) for span in layout.cuts[depth]), part)
                for depth, part in zip(depths, blocks, strict=True)
            )
        )
        idle = tuple(sorted(set(request.slots) - set(chosen.slots)))
        return Decision(
            plan=chosen,
            step_cost=self._step_ticks(layout.shape.runs, layout.cuts) * self._tick,
            copies=layout.placement.copies,
            moved_bytes=layout.placement.moved_bytes,
            idle=idle,
            reasons=tuple(self._reasons(layout, kept, idle)),
        )

    def _reasons(self, layout: _Layout, kept: _Layout | None, idle: tuple[SlotId, ...]) -> Iterator[str]:
        request, copies = self._request, layout.placement.copies
        depths = layout.shape.depths
        if copies < request.copies:
            yield f"copies: {copies} of each layer instead of {request.copies}; {self._copies_limit()}"
        if request.depth is not None and depths[0] < request.depth:
            yield f"depth: at most {depths[0]} instead of {request.depth}, in {len(depths)} pipelines"
        if idle:
            yield f"idle: {', '.join(map(str, idle))}; {self._idle_limit()}"
        if kept is not None:
            saved = kept.placement.moved_bytes - layout.placement.moved_bytes
            yield f"cuts: kept close to what slots hold, {saved} bytes fewer to move"

    def _copies_limit(self) -> str:
        limits, domains = self._limits, len(self._slots_of)
        if domains < self._request.copies:
            return f"{domains} failure domains"
        if limits.depth_least > 1:
            return f"memory asks for {limits.depth_least} slots a copy, and there are {len(self._request.slots)}"
        return f"{limits.blocks} blocks allow no more pipelines"

    def _idle_limit(self) -> str:
        limits = self._limits
        return (
            f"{len(self._request.layer_costs)} layers and {limits.blocks} blocks of {limits.block_size} microbatches "
            "employ no more slots"
        )

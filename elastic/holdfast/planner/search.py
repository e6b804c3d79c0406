"""The search for a layout: which pipelines, which cuts, which shares, which slots. Called at every generation, on its
way; what a transition takes is weighed by its callers.

What is minimised, in this order: copies of layers that are wanted and lacking; the distance from a wanted depth; ticks
of a step; slots that idle; pipelines. Exact for few slots and layers (`exhaustive.py`), else the best of many.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from holdfast.errors import NoPlanError
from holdfast.model.ids import SlotId
from holdfast.model.plan import Pipeline, Plan, Stage
from holdfast.planner.candidates import Candidates
from holdfast.planner.partition import Chain
from holdfast.planner.placement import Placement, place
from holdfast.planner.request import Request as Request
from holdfast.planner.shares import share
from holdfast.planner.site import Place, Site
from holdfast.planner.staffing import Shape

# Cuts that match what slots hold are kept while the slowest stage stays within this share of the best.
KEPT_CUTS_SLACK = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A plan, what it is worth, and why it is no better."""

    plan: Plan
    step_cost: float  # predicted, in the unit of layer_costs
    copies: int  # different failure domains that the worst-off layer lies in
    moved_bytes: int  # of layers that slots of the plan lack
    idle: tuple[SlotId, ...]
    reasons: tuple[str, ...]  # wishes that could not be met and preferences that decided, for the log
    swiftest: "Decision | None" = None  # with cuts that move more, and make a step shorter; None: there are none


@dataclass(frozen=True, slots=True)
class _Layout:
    """A shape with slots: all but the shares."""

    shape: Shape
    chains: tuple[Chain, ...]  # of each pipeline, in rank order
    site: Site
    placement: Placement

    @property
    def has_copies(self) -> bool:
        """As many as it was laid out for."""
        return self.placement.copies >= self.site.copies


def plan(request: Request) -> Decision:
    """The best layout for `request`: as many copies as wanted or possible, then the wanted depth, then the shortest
    step, then no slot idle, then the fewest bytes to move.

    A wanted depth asks for the number of pipelines that comes closest to it among those that leave the fewest slots
    without a place, and for depths as even as can be.

    Raises:
        NoPlanError: there is no slot, or the model does not fit into the memory of all slots together.
    """
    return _Search(request).decide()


class _Search:
    def __init__(self, request: Request):
        self._request = request
        self._domain_of = {slot: request.domains.get(slot.node, str(slot.node)) for slot in request.slots}
        slots_of: dict[str, list[SlotId]] = {}
        for slot in request.slots:
            slots_of.setdefault(self._domain_of[slot], []).append(slot)
        self._domains = {domain: tuple(slots) for domain, slots in slots_of.items()}
        self._candidates = Candidates(request, self._domains)

    def decide(self) -> Decision:
        layout = self._copied_layout()
        familiar, swiftest = self._familiar(layout), self._decision(layout, kept=None)
        if familiar is None:
            return swiftest
        decision = self._decision(familiar, kept=layout)
        why = f"cuts: the fastest, for which {swiftest.moved_bytes - decision.moved_bytes} bytes more move"
        return replace(decision, swiftest=replace(swiftest, reasons=(*swiftest.reasons, why)))

    def _copied_layout(self) -> _Layout:
        """The best shape that has the wanted copies, or as few less as need be."""
        for copies in range(min(self._request.copies, len(self._domains)), 0, -1):
            for numbers in self._candidates.levels(copies):
                if layout := self._best(copies, numbers):
                    return layout
        raise NoPlanError(self._candidates.refusal())

    def _best(self, copies: int, numbers: Sequence[int]) -> _Layout | None:
        """Of shapes with such numbers of pipelines, and with so many copies."""
        layouts = (self._laid_out(shape, copies) for shape in self._candidates.ranked(copies, numbers))
        known = next((layout for layout in layouts if layout.has_copies), None)
        if not self._candidates.is_exact:
            return known
        better = self._candidates.improved(
            known.shape if known else None, numbers, lambda shape: self._has_copies(shape, copies)
        )
        return self._laid_out(better, copies) if better else known

    def _has_copies(self, shape: Shape, copies: int) -> bool:
        # Where every slot is a domain of its own, each pipeline is a copy.
        if copies == 1 or len(self._domains) == len(self._request.slots):
            return True
        return self._laid_out(shape, copies).has_copies

    def _laid_out(self, shape: Shape, copies: int) -> _Layout:
        # Deepest pipelines first, whatever their crew.
        order = sorted(
            ((crew, chain) for crew, each in enumerate(shape.crews) for chain, n in each.chains for _ in range(n)),
            key=lambda pipeline: (-pipeline[1].depth, pipeline[0]),
        )
        groups: dict[tuple[int, int], list[SlotId]] = {}
        for number, crew in enumerate(shape.crews):
            for slot in crew.group.slots:
                groups.setdefault((number, self._candidates.kind_of[slot]), []).append(slot)
        group_of = {key: index for index, key in enumerate(sorted(groups))}
        site = Site(
            places=tuple(
                Place(pipeline, span, group_of[crew, kind])
                for pipeline, (crew, chain) in enumerate(order)
                for span, kind in zip(chain.cuts, chain.kinds, strict=True)
            ),
            groups=tuple(tuple(slots) for _, slots in sorted(groups.items())),
            domains=self._domain_of,
            held=self._request.held,
            layer_bytes=self._request.layer_bytes,
            copies=copies,
        )
        return _Layout(shape, tuple(chain for _, chain in order), site, place(site))

    def _familiar(self, layout: _Layout) -> _Layout | None:
        """The same shape with cuts closer to what is held, where that moves fewer bytes; else None."""
        held = [self._request.held[slot] for slot in self._request.slots if self._request.held.get(slot)]
        if not held or not layout.placement.moved_bytes:
            return None
        closer = {
            chain: self._candidates.partition.familiar(chain, held, self._request.layer_bytes, KEPT_CUTS_SLACK)
            for chain in sorted(set(layout.chains), key=lambda chain: (chain.depth, chain.cuts, chain.kinds))
        }
        crews = tuple(
            replace(crew, chains=tuple((closer[chain], n) for chain, n in crew.chains)) for crew in layout.shape.crews
        )
        if crews == layout.shape.crews:
            return None
        other = self._laid_out(Shape(crews), layout.site.copies)
        fewer = other.placement.moved_bytes < layout.placement.moved_bytes
        return other if fewer and other.placement.copies >= layout.placement.copies else None

    def _decision(self, layout: _Layout, kept: _Layout | None) -> Decision:
        request, taken = self._request, iter(layout.placement.slots)
        blocks = share([chain.pace for chain in layout.chains], request.blocks, request.block_size)
        chosen = Plan(
            tuple(
                Pipeline(tuple(Stage(next(taken), span) for span in chain.cuts), part)
                for chain, part in zip(layout.chains, blocks, strict=True)
            )
        )
        idle = tuple(sorted(set(request.slots) - set(chosen.slots)))
        return Decision(
            plan=chosen,
            step_cost=self._candidates.step_ticks(layout.shape) * request.in_ticks().tick,
            copies=layout.placement.copies,
            moved_bytes=layout.placement.moved_bytes,
            idle=idle,
            reasons=tuple(self._reasons(layout, kept, idle)),
        )

    def _reasons(self, layout: _Layout, kept: _Layout | None, idle: tuple[SlotId, ...]) -> Iterator[str]:
        request, copies = self._request, layout.placement.copies
        deepest = layout.chains[0].depth
        if copies < request.copies:
            yield f"copies: {copies} of each layer instead of {request.copies}; {self._copies_limit()}"
        if request.depth is not None and deepest < request.depth:
            yield f"depth: at most {deepest} instead of {request.depth}, in {len(layout.chains)} pipelines"
        if idle:
            yield f"idle: {', '.join(map(str, idle))}; {self._idle_limit(layout)}"
        if kept is not None:
            saved = kept.placement.moved_bytes - layout.placement.moved_bytes
            yield f"cuts: kept close to what slots hold, {saved} bytes fewer to move"

    def _copies_limit(self) -> str:
        limits, domains = self._candidates.limits, len(self._domains)
        if domains < self._request.copies:
            return f"{domains} failure domains"
        if limits.depths[0] > 1:
            return f"memory asks for {limits.depths[0]} slots a copy, and there are {len(self._request.slots)}"
        return f"{limits.blocks} blocks allow no more pipelines"

    def _idle_limit(self, layout: _Layout) -> str:
        limits = self._candidates.limits
        if self._candidates.could_employ(layout.shape.employed, layout.site.copies):
            return "a step with them would take longer"
        return (
            f"{len(self._request.layer_costs)} layers and {limits.blocks} blocks of {limits.block_size} microbatches "
            "employ no more slots"
        )

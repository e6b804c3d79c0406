"""The layout that runs beside another that could be had: what a step of each takes, and what the change does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holdfast.control.job import Job
from holdfast.control.pricing import profile_of, request_for
from holdfast.control.view import View
from holdfast.errors import NoPlanError
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.measured import Measured
from holdfast.model.plan import Plan
from holdfast.model.records import WorkerRef
from holdfast.planner.foresight import move_seconds, moves_to
from holdfast.planner.profile import Profile
from holdfast.planner.search import plan
from holdfast.planner.timeline import estimate
from holdfast.planner.transition import Holdings
from holdfast.planner.worth import HORIZON_S, Option, best

# What stopping and forming groups is taken to take where this leader has not seen it.
_FORMING_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """Rates are in steps a second. `others`: the layouts that a new generation would choose among. `is_safer`: layers
    have more of the copies that are wanted."""

    running: Option
    others: tuple[Option, ...]
    is_safer: bool

    @property
    def fastest(self) -> Option:
        """Of the others, by its step."""
        return max(self.others, key=lambda option: (option.rate, -option.transition_s))

    @property
    def gain(self) -> float:
        """Of each step, a share; below 0 where it would take longer."""
        return 1 - self.running.rate / self.fastest.rate

    def is_worth(self, steps: int, loss_per_s: float) -> bool:
        """More than to go on as it is, for so many more steps."""
        return best((self.running, *self.others), loss_per_s, min(HORIZON_S, steps / self.running.rate)) > 0


def weigh(job: Job, view: View, measured: Measured, slots: tuple[SlotId, ...]) -> Weighed | None:
    """The best layout for these slots, with cuts close to what they hold and with the fastest ones. None: there is
    nothing to weigh. `measured`: with the costs of all layers."""
    running = view.start.plan if view.start is not None else None
    if running is None or not slots:
        return None
    profile, held = profile_of(job, measured), {stage.slot: frozenset(stage.layers) for stage in running.stages}
    try:
        request = request_for(job, view, profile, slots, held)
        other = plan(request)
    except NoPlanError:
        return None
    domains = {node: record.domain for node, record in view.nodes.items()}
    forming_s = _forming_s(job, view)
    known = [one.plan for one in (other, other.swiftest) if one is not None]
    return Weighed(
        running=Option(_steps_per_s(job, running, profile), 0.0),
        others=tuple(option_of(job, one, profile, held, forming_s=forming_s) for one in known),
        is_safer=_copies(running, domains) < min(other.copies, request.copies),
    )


def able_slots(job: Job, view: View, members: Sequence[WorkerRef]) -> tuple[SlotId, ...]:
    """Of a generation with these members: of nodes that stay, those that train now first, as many as the job wants."""
    running = view.start.plan if view.start is not None else None
    training = running.nodes if running is not None else frozenset()
    staying = {ref.slot.node for ref in members}.intersection(view.nodes).difference(view.draining)
    allowed = frozenset(sorted(staying, key=lambda node: (node not in training, node))[: job.nodes_max])
    return tuple(ref.slot for ref in members if ref.slot.node in allowed)


def option_of(job: Job, layout: Plan, profile: Profile, held: Holdings, *, forming_s: float = 0.0) -> Option:
    """Its rate in steps a second. `forming_s`: what it takes besides moving layers to get there."""
    return Option(_steps_per_s(job, layout, profile), forming_s + move_s(profile, layout, held))


def move_s(profile: Profile, layout: Plan, held: Holdings) -> float:
    """From when layers begin to move until all slots have theirs."""
    moves = moves_to(layout, profile, held)
    return move_seconds(profile, moves.sent, moves.fetched)


def _steps_per_s(job: Job, layout: Plan, profile: Profile) -> float:
    return 1 / estimate(layout, profile, job.block_size, canonical=job.is_canonical).seconds


def _forming_s(job: Job, view: View) -> float:
    """As long as the present generation took to form, if this leader saw it."""
    took_s = view.runs_s - view.began_s if view.runs_s is not None else 0.0
    return min(took_s, job.start_s) if took_s > 0 else _FORMING_S


def _copies(layout: Plan, domains: Mapping[NodeId, str]) -> int:
    """In how many failure domains the worst-off layer lies."""
    slots = layout.slots
    return min(
        len({domains.get(slots[rank].node, str(slots[rank].node)) for rank in segment.ranks})
        for segment in layout.segments
    )

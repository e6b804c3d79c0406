"""Whether slots turned out so slow, or so fast, that another layout pays: told by their agents while steps run. Pure.

Nothing happens because of noise: a speed is told with caution (`planner.straggler`), a layout has to gain a tenth, and
it must be worth more than to go on until the next loss or the end of the job, transition included (`planner.worth`).
What is slow may soon be as fast as before. So nobody reshapes before the present layout has lost as much time as a
transition takes: whatever comes, no more than twice the time is lost that had to be (as in renting or buying skis;
Karlin et al., Competitive snoopy caching, 1988).
"""

from dataclasses import dataclass, field

from holdfast.control.due import Due
from holdfast.control.job import Job
from holdfast.control.pricing import measured_by, measured_when_stopped, profile_of, request_for, slow_slots
from holdfast.control.start import staying_slots
from holdfast.control.view import View
from holdfast.errors import NoPlanError
from holdfast.model.ids import NodeId
from holdfast.model.measured import Measured, PaceRecord
from holdfast.model.plan import Plan
from holdfast.model.records import Action
from holdfast.planner.foresight import move_seconds, moves_to
from holdfast.planner.hazard import Outlook
from holdfast.planner.profile import Profile
from holdfast.planner.search import plan
from holdfast.planner.timeline import estimate
from holdfast.planner.worth import HORIZON_S, Option, best

# With very many slots what is told is weighed less often, since weighing takes longer.
_SETTLE_A_SLOT_S, _SLOTS_FEW = 0.01, 100
_GAIN = 0.1
# What stopping and forming groups is taken to take where this leader has not seen it.
_FORMING_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """Another layout, and what it takes to have it."""

    before_s: float  # a step of the present one
    after_s: float
    transition_s: float
    at_s: float  # when the present one will have lost as much
    reason: str

    def is_worth(self, steps: int, loss_per_s: float) -> bool:
        """More than to go on as it is, for so many more steps."""
        options = [Option(1 / self.before_s, 0.0), Option(1 / self.after_s, self.transition_s)]
        return best(options, loss_per_s, min(HORIZON_S, steps * self.before_s)) == 1


@dataclass(slots=True)
class Tempo:
    """Of one generation."""

    job: Job
    _paces: dict[NodeId, PaceRecord] = field(default_factory=dict)
    _told_s: float | None = None  # since when something was told that was not weighed yet
    _odd_s: float | None = None  # since when speeds are others than the layout was planned for
    _wish: _Wish | None = None

    def entered(self) -> None:
        """A new generation: nothing was told in it."""
        self._paces, self._told_s, self._odd_s, self._wish = {}, None, None, None

    def told(self, record: PaceRecord, view: View, now_s: float) -> None:
        if view.generation is not None and record.generation == view.generation.number:
            self._paces[record.node] = record
            self._told_s = now_s if self._told_s is None else self._told_s

    def measured(self, view: View) -> Measured:
        """All that is known by now, of slots that are there."""
        planned = measured_when_stopped(self.job, view)
        told = {pace.slot: dict(pace.layer_s) for node in sorted(self._paces) for pace in self._paces[node].slots}
        now = measured_by(self.job, planned, {slot: mine for slot, mine in told.items() if slot.node in view.nodes})
        kept = tuple(
            (slot, speed) for slot, speed in now.speeds if slot.node in view.nodes or slot in self.job.profile.speeds
        )
        return Measured(layer_s=now.layer_s, speeds=kept)

    def due(self, view: View, outlook: Outlook, now_s: float) -> Due | None:
        """When to lay out anew, or to look again; None: as long as nobody tells otherwise, never."""
        start = view.start
        if start is None or start.plan is None or start.action is not Action.TRAIN:
            return None
        if self._told_s is not None:
            more_s = _SETTLE_A_SLOT_S * (len(start.plan.slots) - _SLOTS_FEW)
            settled_s = self._told_s + max(self.job.pace_settle_s, more_s)
            if now_s < settled_s:
                return Due(settled_s, "")
            self._wish, self._told_s = self._wished(view, start.plan, now_s), None
        wish = self._wish
        if wish is None:
            return None
        loss_per_s = outlook.loss_per_s(len(start.plan.nodes), len(view.nodes))
        is_worth = wish.is_worth(self.job.steps - view.committed_step, loss_per_s)
        return Due(wish.at_s, wish.reason) if is_worth else None

    def _wished(self, view: View, running: Plan, now_s: float) -> _Wish | None:
        """The best layout for what is known by now, where it gains enough."""
        planned, now = measured_when_stopped(self.job, view), self.measured(view)
        if not now.layer_s or (planned.layer_s and planned.speeds == now.speeds):
            self._odd_s = None
            return None
        self._odd_s = now_s if self._odd_s is None else self._odd_s
        profile, held = profile_of(self.job, now), {stage.slot: frozenset(stage.layers) for stage in running.stages}
        slots = staying_slots(self.job, view)
        try:
            other = plan(request_for(self.job, view, profile, slots, held)).plan
        except NoPlanError:
            return None
        before_s, after_s = self._step_s(running, profile), self._step_s(other, profile)
        gain = 1 - after_s / before_s
        moves = moves_to(other, profile, held)
        transition_s = self._forming_s(view) + move_seconds(profile, moves.sent, moves.fetched)
        if gain < _GAIN:
            return None
        why = "; ".join(slow_slots(profile, slots)) or "layers and slots were measured"
        reason = f"{why}: a step of about {after_s:.3g} s instead of {before_s:.3g} s"
        at_s = self._odd_s + transition_s / gain
        return _Wish(before_s=before_s, after_s=after_s, transition_s=transition_s, at_s=at_s, reason=reason)

    def _step_s(self, layout: Plan, profile: Profile) -> float:
        return estimate(layout, profile, self.job.block_size, canonical=self.job.is_canonical).seconds

    def _forming_s(self, view: View) -> float:
        """As long as the present generation took to form, if this leader saw it."""
        took_s = view.runs_s - view.began_s if view.runs_s is not None else 0.0
        return min(took_s, self.job.start_s) if took_s > 0 else _FORMING_S

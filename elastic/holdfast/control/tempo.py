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


@dataclass(slots=True)
class Tempo:
    """Of one generation."""

    job: Job
    _paces: dict[NodeId, PaceRecord] = field(default_factory=dict)
    _told_s: float | None = None  # since when something was told that was not weighed yet
    _odd_s: float | None = None  # since when speeds are others than the layout was planned for
    _due: Due | None = None

    def entered(self) -> None:
        """A new generation: nothing was told in it."""
        self._paces, self._told_s, self._odd_s, self._due = {}, None, None, None

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
        if self._told_s is None:
            return self._due
        settled_s = self._told_s + max(self.job.pace_settle_s, _SETTLE_A_SLOT_S * (len(start.plan.slots) - _SLOTS_FEW))
        if now_s < settled_s:
            return Due(settled_s, "")
        self._due, self._told_s = self._weighed(view, start.plan, outlook, now_s), None
        return self._due

    def _weighed(self, view: View, running: Plan, outlook: Outlook, now_s: float) -> Due | None:
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
        options = [Option(1 / before_s, 0.0), Option(1 / after_s, transition_s)]
        left_s = min(HORIZON_S, (self.job.steps - view.committed_step) * before_s)
        loss_per_s = outlook.loss_per_s(len(running.nodes), len(view.nodes))
        if gain < _GAIN or best(options, loss_per_s, left_s) == 0:
            return None
        why = "; ".join(slow_slots(profile, slots)) or "layers and slots were measured"
        reason = f"{why}: a step of about {after_s:.3g} s instead of {before_s:.3g} s"
        return Due(self._odd_s + transition_s / gain, reason)

    def _step_s(self, layout: Plan, profile: Profile) -> float:
        return estimate(layout, profile, self.job.block_size, canonical=self.job.is_canonical).seconds

    def _forming_s(self, view: View) -> float:
        """As long as the present generation took to form, if this leader saw it."""
        took_s = view.runs_s - view.began_s if view.runs_s is not None else 0.0
        return min(took_s, self.job.start_s) if took_s > 0 else _FORMING_S

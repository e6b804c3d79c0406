"""Whether another layout pays, with slots that turned out slow or fast, or with newcomers. Pure.

Agents tell the pace of their slots while steps run. Nothing happens because of noise: a speed is told with caution
(`planner.straggler`), a layout has to gain a tenth, and it must be worth more than to go on until the next loss or the
end of the job, transition included (`planner.worth`). What is slow may soon be as fast as before. So nobody reshapes
before the present layout has lost as much time as a transition takes: whatever comes, no more than twice the time is
lost that had to be (as in renting or buying skis; Karlin et al., Competitive snoopy caching, 1988).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from holdfast.control.due import Due
from holdfast.control.job import Job
from holdfast.control.pricing import link_bytes_per_s, measured_by, measured_when_stopped, slow_slots
from holdfast.control.view import View
from holdfast.control.weighing import Weighed, able_slots, weigh
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.measured import Measured, PaceRecord
from holdfast.model.records import Action, NodeAck, WorkerRef
from holdfast.planner.hazard import Outlook

# With very many slots what is told is weighed less often, since weighing takes longer.
_SETTLE_A_SLOT_S, _SLOTS_FEW = 0.01, 100
_GAIN = 0.1
# With fewer members whoever comes is welcome, whatever it adds: its RAM may keep copies.
_NODES_SAFE = 3


@dataclass(slots=True)
class Tempo:
    """Of one generation."""

    job: Job
    _paces: dict[NodeId, PaceRecord] = field(default_factory=dict)
    _link_bytes_per_s: float = 0.0
    _is_new: bool = True  # nothing was weighed yet
    _told_s: float | None = None  # since when something was told that was not weighed yet
    _odd_s: float | None = None  # since when another layout would gain enough
    _wish: tuple[Weighed, Due] | None = None
    _joining: tuple[tuple[SlotId, ...], Weighed | None] | None = None  # with these slots

    def entered(self) -> None:
        """A new generation: nothing was told in it."""
        self._link_bytes_per_s, self._is_new = 0.0, True
        self._paces, self._told_s, self._odd_s, self._wish, self._joining = {}, None, None, None, None

    def told(self, record: PaceRecord, view: View, now_s: float) -> None:
        if view.generation is not None and record.generation == view.generation.number:
            self._paces[record.node] = record
            self._told_s = now_s if self._told_s is None else self._told_s
            self._joining = None

    def heard(self, ack: NodeAck, view: View) -> None:
        """How fast layers came; of all nodes the fastest shows best what the network gives."""
        if view.generation is not None and ack.generation == view.generation.number:
            self._link_bytes_per_s = max(self._link_bytes_per_s, link_bytes_per_s(ack))

    def measured(self, view: View) -> Measured:
        """All that is known by now, of slots that are there."""
        planned, seen = measured_when_stopped(self.job, view), _still_true(view)
        for node in sorted(self._paces):
            for pace in self._paces[node].slots:
                seen[pace.slot] = seen.get(pace.slot, {}) | dict(pace.layer_s)
        now = measured_by(self.job, planned, {slot: mine for slot, mine in seen.items() if slot.node in view.nodes})
        kept = tuple(
            (slot, speed) for slot, speed in now.speeds if slot.node in view.nodes or slot in self.job.profile.speeds
        )
        return replace(now, speeds=kept, link_bytes_per_s=self._link_bytes_per_s or now.link_bytes_per_s)

    def due(self, view: View, outlook: Outlook, now_s: float) -> Due | None:
        """When to lay out anew, or to look again; None: as long as nobody tells otherwise, never."""
        start = view.start
        if not self.job.is_adaptive or start is None or start.plan is None or start.action is not Action.TRAIN:
            return None
        if self._is_new:  # who was left out may be worth it by and by
            self._is_new = False
            self._told_s = now_s if _idle(self.job, view) else self._told_s
        if self._told_s is not None:
            more_s = _SETTLE_A_SLOT_S * (len(start.plan.slots) - _SLOTS_FEW)
            settled_s = self._told_s + max(self.job.pace_settle_s, more_s)
            if now_s < settled_s:
                return Due(settled_s, "")
            self._wish, self._told_s = self._wished(view, now_s), None
        if self._wish is None:
            return None
        weighed, due = self._wish
        return due if self._is_worth(weighed, view, outlook) else None

    def takes(self, members: Sequence[WorkerRef], view: View, outlook: Outlook) -> bool:
        """Whether a generation of these, of whom some are new, is worth it now. As long as nothing was measured, and
        where layers or snapshots get more copies, it is."""
        if not self.job.is_adaptive or len(view.member_nodes.difference(view.draining)) < _NODES_SAFE:
            return True
        slots = able_slots(self.job, view, members)
        if self._joining is None or self._joining[0] != slots:
            measured = self.measured(view)
            self._joining = slots, weigh(self.job, view, measured, slots) if measured.layer_s else None
        weighed = self._joining[1]
        if weighed is None or weighed.is_safer or self._needs_room(slots, view):
            return True
        return self._is_worth(weighed, view, outlook)

    def _needs_room(self, slots: Sequence[SlotId], view: View) -> bool:
        """Whether copies in RAM find more failure domains with these slots, and too few without."""
        if not self.job.has_snapshots or view.start is None or view.start.plan is None:
            return False
        now, then = (
            {view.nodes[node].domain for node in nodes if node in view.nodes}
            for nodes in (view.start.plan.nodes, {slot.node for slot in slots})
        )
        return len(now) < min(self.job.copies + 1, len(then))

    def _is_worth(self, weighed: Weighed, view: View, outlook: Outlook) -> bool:
        assert view.start is not None and view.start.plan is not None
        loss_per_s = outlook.loss_per_s(len(view.start.plan.nodes), len(view.nodes))
        return weighed.is_worth(self.job.steps - view.committed_step, loss_per_s)

    def _wished(self, view: View, now_s: float) -> tuple[Weighed, Due] | None:
        """The best layout for what is known by now, where it gains enough, and when the present one will have lost as
        much as a transition takes."""
        planned, now = measured_when_stopped(self.job, view), self.measured(view)
        slots, idle = able_slots(self.job, view, view.members), _idle(self.job, view)
        is_as_planned = planned.layer_s and planned.speeds == now.speeds and not idle
        weighed = weigh(self.job, view, now, slots) if now.layer_s and not is_as_planned else None
        if weighed is None or weighed.gain < _GAIN:
            self._odd_s = None
            return None
        self._odd_s = now_s if self._odd_s is None else self._odd_s
        left_out = f"idle: {', '.join(map(str, idle))}" if idle else "layers and slots were measured"
        why = "; ".join(slow_slots(now, slots)) or left_out
        reason = f"{why}: a step of about {1 / weighed.fastest.rate:.3g} s instead of {1 / weighed.running.rate:.3g} s"
        return weighed, Due(self._odd_s + weighed.fastest.transition_s / weighed.gain, reason)


def _still_true(view: View) -> dict[SlotId, dict[int, float]]:
    """What the inventories told of layers that lie where they lay: it is not told again unless it changes."""
    plan = view.start.plan if view.start is not None else None
    held = {stage.slot: stage.layers for stage in plan.stages} if plan is not None else {}
    told = {
        i.slot: {layer: s for layer, s in i.layer_cost_s if layer in held.get(i.slot, ())} for i in view.inventories
    }
    return {slot: mine for slot, mine in told.items() if mine}


def _idle(job: Job, view: View) -> tuple[SlotId, ...]:
    """Slots that could train and have no stage."""
    plan = view.start.plan if view.start is not None else None
    training = frozenset(plan.slots) if plan is not None else frozenset()
    return tuple(slot for slot in able_slots(job, view, view.members) if slot not in training)

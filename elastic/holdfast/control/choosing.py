"""Which layout a generation starts with: the fastest, or one that moves less if it is worth more."""

from dataclasses import replace

from holdfast.control.job import Job
from holdfast.control.pricing import measured_when_stopped, profile_of, request_for, slow_slots
from holdfast.control.recovery import Basis
from holdfast.control.view import View
from holdfast.control.weighing import move_s, option_of
from holdfast.errors import NoPlanError
from holdfast.model.ids import SlotId
from holdfast.planner.hazard import Outlook
from holdfast.planner.profile import Profile
from holdfast.planner.search import Decision, plan
from holdfast.planner.worth import HORIZON_S, best


def choose_plan(job: Job, view: View, basis: Basis, staying: tuple[SlotId, ...], outlook: Outlook) -> Decision:
    """For slots that may train: the layout that is worth most until the next loss, transition included, of the fastest,
    one whose cuts are close to what slots hold, and those of the slots that hold layers. The planner's own choice where
    nothing was measured yet, or changes are not to be weighed; where only it has the copies that are wanted, no other.

    Raises: NoPlanError.
    """
    measured = measured_when_stopped(job, view)
    profile = profile_of(job, measured)
    request = request_for(job, view, profile, staying, basis.held)
    decided = plan(request)
    if job.is_adaptive and measured.layer_s:
        at_hand = _at_hand(basis, staying)
        holding = tuple(slot for slot in staying if at_hand[slot])
        known = [decided]
        if 0 < len(holding) < len(staying):
            other = _planned(job, view, profile, holding, basis)
            if other is not None and other.copies >= min(decided.copies, request.copies):
                known.append(_with_reason(other, decided, move_s(profile, decided.plan, at_hand)))
        known += [one.swiftest for one in known if one.swiftest is not None]
        if len(known) > 1:
            options = [option_of(job, one.plan, profile, at_hand) for one in known]
            left_s = min(HORIZON_S, (job.steps - basis.version.step) / min(option.rate for option in options))
            fewest = min(len(one.plan.nodes) for one in known)
            decided = known[best(options, outlook.loss_per_s(fewest, len(view.nodes)), left_s)]
    return replace(decided, reasons=(*slow_slots(measured, staying), *decided.reasons))


def _with_reason(one: Decision, fastest: Decision, seconds: float) -> Decision:
    """Which says why slots of the fastest layout idle; `seconds`: what their layers would take to get there."""
    left_out = ", ".join(str(slot) for slot in fastest.plan.slots if slot not in one.plan.slots)
    why = f"idle: {left_out}; {seconds:.3g} s to get them their layers are not worth it"
    swiftest = one.swiftest and replace(one.swiftest, reasons=(*one.swiftest.reasons, why))
    return replace(one, reasons=(*one.reasons, why), swiftest=swiftest)


def _planned(job: Job, view: View, profile: Profile, slots: tuple[SlotId, ...], basis: Basis) -> Decision | None:
    try:
        return plan(request_for(job, view, profile, slots, basis.held))
    except NoPlanError:
        return None


def _at_hand(basis: Basis, slots: tuple[SlotId, ...]) -> dict[SlotId, frozenset[int]]:
    """What slots hold themselves, or their nodes in RAM."""
    in_ram: dict[str, set[int]] = {}
    for layer, nodes in basis.in_ram.items():
        for node in nodes:
            in_ram.setdefault(node, set()).add(layer)
    return {slot: basis.held.get(slot, frozenset()) | in_ram.get(slot.node, set()) for slot in slots}

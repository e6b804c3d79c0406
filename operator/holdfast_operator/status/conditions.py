"""The five conditions. Each is always there, with a word for programs and a message that a person can act on."""

from collections.abc import Iterable, Iterator
from typing import Literal

from holdfast.telemetry.run_state import RunState
from holdfast_operator.api.v1alpha1.status import StatusCondition
from holdfast_operator.api.v1alpha1.times import text_of
from holdfast_operator.status.facts import Facts

TYPES = ("Running", "Suspended", "Degraded", "Complete", "Failed")
_MESSAGE_CHARS_MAX = 8192  # the API takes more, but people do not

Truth = Literal["True", "False", "Unknown"]
Told = tuple[Truth, str, str]  # status, reason, message


def condition_of(conditions: Iterable[StatusCondition], kind: str) -> StatusCondition | None:
    return next((condition for condition in conditions if condition.type == kind), None)


def is_true(conditions: Iterable[StatusCondition], kind: str) -> bool:
    condition = condition_of(conditions, kind)
    return condition is not None and condition.status == "True"


def conditions(facts: Facts, before: tuple[StatusCondition, ...]) -> tuple[StatusCondition, ...]:
    """In the order of `TYPES`; the time of one changes with its truth alone."""
    return tuple(_conditions(facts, before))


def _conditions(facts: Facts, before: tuple[StatusCondition, ...]) -> Iterator[StatusCondition]:
    for kind, told in zip(TYPES, _told(facts, before), strict=True):
        status, reason, message = told
        old = condition_of(before, kind)
        is_same = old is not None and old.status == status
        yield StatusCondition(
            type=kind,
            status=status,
            reason=reason,
            message=message[:_MESSAGE_CHARS_MAX],
            last_transition_time=old.last_transition_time if old is not None and is_same else text_of(facts.now_s),
            observed_generation=facts.generation,
        )


def _told(facts: Facts, before: tuple[StatusCondition, ...]) -> tuple[Told, Told, Told, Told, Told]:
    complete, failed = _ends(facts, before)
    return _running(facts), _suspended(facts), _degraded(facts), complete, failed


def _ends(facts: Facts, before: tuple[StatusCondition, ...]) -> tuple[Told, Told]:
    """What was said of the end stays said."""
    not_over: Told = ("False", "NotOver", "the job is not over")
    if facts.stage != "Over":
        return not_over, not_over
    if facts.verdict is None:
        old = [condition_of(before, kind) for kind in ("Complete", "Failed")]
        complete, failed = ((c.status, c.reason, c.message) if c is not None else not_over for c in old)
        return complete, failed
    end: Told = ("True", facts.verdict.reason, facts.verdict.message)
    if facts.verdict.succeeded:
        return end, ("False", "Completed", "the job ended well")
    return ("False", "Failed", "the job failed; see the condition Failed"), end


def _running(facts: Facts) -> Told:
    if facts.stage == "Over":
        return "False", "Over", "the job is over"
    if facts.stage == "Suspended":
        return "False", "Suspended", "the job has no pods; set suspend: false to go on"
    if facts.store_trouble:
        message = f"the rendezvous cannot be read, without which nodes train on for a while: {facts.store_trouble}"
        return "Unknown" if facts.has_trained else "False", "StoreUnreachable", message
    match facts.state:
        case RunState.TRAINING:
            return "True", "Training", f"{facts.ready} of {facts.wanted} nodes are ready"
        case RunState.RESHAPING:
            return "True", "Reshaping", f"a generation forms; {facts.ready} of {facts.wanted} nodes are ready"
        case RunState.FINISHED:
            return "True", "Finishing", "the final weights are being written"
        case _:
            return _waiting(facts)


def _waiting(facts: Facts) -> Told:
    """It does not train, because ..."""
    if facts.troubles and facts.ready < facts.nodes_min:
        return "False", facts.troubles[0].reason, facts.troubles[0].message
    if facts.state is RunState.HOLDING:
        why = f": {'; '.join(facts.holding)}" if facts.holding else ""
        message = f"{facts.ready} nodes are ready, of at least {facts.nodes_min}; the state is held{why}"
        return "False", "WaitingForNodes", message
    return "False", "Starting", f"{facts.ready} nodes are ready; training begins with {facts.nodes_min}"


def _suspended(facts: Facts) -> Told:
    if facts.stage == "Suspended":
        return "True", "Suspended", f"every pod is gone; {_saved(facts)}"
    if facts.stage == "Suspending" and _is_saved(facts):
        return "False", "Suspending", f"the nodes leave; {_saved(facts)}"
    if facts.stage == "Suspending":
        newest = f"the newest is of step {facts.saved_step}" if facts.saved_step is not None else "there is none yet"
        why = f"{newest}; the nodes that hold that state stay until it is"
        return "False", "SuspendWaits", f"the checkpoint of step {facts.step} is not written: {why}"
    refused = next((trouble for trouble in facts.troubles if trouble.reason == "SuspendRefused"), None)
    if refused is not None and facts.stage == "Active":
        return "False", refused.reason, refused.message
    return "False", "NotSuspended", "suspend is false"


def _is_saved(facts: Facts) -> bool:
    return facts.step <= (facts.saved_step or 0)


def _saved(facts: Facts) -> str:
    """Where what was trained is."""
    if facts.step == 0:
        return "no step was trained"
    if _is_saved(facts):
        return "what was trained lies in state.url"
    if facts.saved_step is None:
        return f"{facts.step} steps were trained, and no checkpoint is known"
    return f"{facts.step} steps were trained, and the newest checkpoint is of step {facts.saved_step}"


def _degraded(facts: Facts) -> Told:
    if facts.stage in ("Over", "Suspended"):
        return "False", facts.stage, "no nodes are wanted"
    if facts.store_trouble:
        return "True", "StoreUnreachable", f"the rendezvous cannot be read: {facts.store_trouble}"
    if facts.troubles:
        return "True", facts.troubles[0].reason, "; ".join(trouble.message for trouble in facts.troubles)
    if facts.stage == "Active" and facts.has_trained and facts.ready < facts.wanted:
        return "True", "FewerNodes", f"{facts.ready} of {facts.wanted} nodes are ready; others are on their way"
    return "False", "AsWanted", "nothing is amiss"

"""What follows from lost contact: a generation without those that are cut off, or the same members once more."""

from holdfast.control.due import Due
from holdfast.control.job import Job
from holdfast.control.reach import Apart
from holdfast.control.view import View
from holdfast.model.records import StopMode

# The same members are formed again at once, once more, and then, at one step, after ever longer pauses: a network that
# is down for a minute does not end the job.
_PAUSE_S, _PAUSE_MAX_S = 0.5, 16.0
# Lengths of a probe, after lost contact, until all have said whom they cannot reach: those who say it first are waited
# for no longer.
_PROBES_TOLD = 3


def cut(job: Job, view: View) -> Due | None:
    """Members say that they cannot reach each other, and nothing shows that they need not: what they say is not from
    before the last step, or contact was lost."""
    apart = _apart(view)
    if not apart or (view.is_holding and view.is_running):
        return None
    stepped = view.is_running and view.committed_s is not None and view.committed_s > view.reach_changed_s
    if stepped and view.suspected_s is None:
        return None
    node = min(apart)
    reason = f"{node} and {', '.join(sorted(apart[node]))} cannot reach each other"
    settled_s = view.reach_changed_s + job.probe_s
    if view.reach_began_s is not None:  # what is said may go on changing
        settled_s = min(settled_s, view.reach_began_s + job.probe_s * _PROBES_TOLD)
    if stepped and view.suspected_s is not None:  # what they said long ago may not be why
        settled_s = max(settled_s, view.suspected_s + job.probe_s)
    return Due(settled_s, reason)


def broken(job: Job, view: View, now_s: float) -> Due | None:
    """Contact was lost, or someone waits for too long, and nobody is known to be gone."""
    assert view.generation is not None
    aborted = view.start is None and view.generation.stop is StopMode.ABORT
    if view.suspected_s is None or aborted or (view.is_holding and view.is_running) or _apart(view):
        return None
    at_s = view.suspected_s + job.probe_s
    if now_s >= at_s and not view.member_nodes & view.nodes.keys() <= view.answered:
        # Where somebody does not answer, others take as long to find that out, and have still to say so.
        at_s = view.suspected_s + job.probe_s * _PROBES_TOLD
    return Due(at_s + _pause_s(view), "communication broke, all nodes live")


def trouble(view: View) -> int:
    """Failures in a row of generations that had a start, at the present step."""
    before = view.generation
    return 0 if before is None or before.trouble_step != view.committed_step else before.trouble


def _pause_s(view: View) -> float:
    count = trouble(view)
    return float(min(_PAUSE_S * 2 ** (count - 2), _PAUSE_MAX_S)) if count > 1 else 0.0


def _apart(view: View) -> Apart:
    """Of those that the generation hangs on."""
    if not view.reach:
        return {}
    needed = {ref.slot.node for ref in view.needed}
    return {node: others & needed for node, others in view.apart.items() if node in needed and others & needed}

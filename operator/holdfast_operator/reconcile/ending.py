"""When a job is over, and why. The rendezvous' outcome decides; beside it a wrong input, too many failures, and the two
deadlines. Once it is over it stays over."""

from holdfast.model.records import OutcomeRecord, Result
from holdfast_operator.api.v1alpha1.status import Failure
from holdfast_operator.api.v1alpha1.times import seconds_of
from holdfast_operator.reconcile.actions import DeleteJob
from holdfast_operator.reconcile.failures import describe, is_refusal
from holdfast_operator.reconcile.ledger import Ledger
from holdfast_operator.reconcile.snapshot import PodView
from holdfast_operator.reconcile.view import View
from holdfast_operator.status.conditions import condition_of
from holdfast_operator.status.facts import Verdict

_REASON_CHARS_MAX = 4096


def verdict(view: View, ledger: Ledger, *, is_suspended: bool) -> Verdict | None:
    """How the job ended, if it is over."""
    if (outcome := view.run.outcome if view.run is not None else None) is not None:
        return _told(outcome)
    return _wrong_input(view) or _failed_too_often(view, ledger) or (None if is_suspended else _late(view))


def expiry(view: View) -> DeleteJob | None:
    """Of a job that has been over for longer than anybody wants it."""
    ttl_s, finished = view.job.spec.ttl_seconds_after_finished, view.job.status.finished_time
    if ttl_s is None or finished is None or not view.is_due(seconds_of(finished) + ttl_s):
        return None
    return DeleteJob(uid=view.job.metadata.uid)


def ended_by_s(view: View) -> float:
    """When the pods of a job that is over have ended by themselves, or hang."""
    finished = view.job.status.finished_time
    at_s = seconds_of(finished) if finished is not None else view.now_s
    return at_s + view.job.spec.preemption.notice + view.job.spec.pod_termination_timeout


def _told(outcome: OutcomeRecord) -> Verdict:
    if outcome.result is Result.COMPLETED:
        return Verdict(succeeded=True, reason="Completed", message=f"all {outcome.step} steps are committed")
    if outcome.result is Result.STOPPED:
        return Verdict(succeeded=True, reason="Stopped", message=f"stopped after step {outcome.step}: {outcome.reason}")
    traceback = f"\n{outcome.failure.traceback}" if outcome.failure is not None else ""
    message = f"failed after step {outcome.step}: {outcome.reason}{traceback}"
    return Verdict(succeeded=False, reason="JobFailed", message=_shortened(message))


def _wrong_input(view: View) -> Verdict | None:
    """Of a job that nobody could begin. Where others have, the input is right, and what refuses it is that one pod: its
    image, its host."""
    for pod in view.pods.values():
        if pod.end is not None and is_refusal(pod.end) and not _is_begun(view, pod):
            message = f"pod {pod.name} refused its input, and trying again cannot help: {describe(pod.end)}"
            return Verdict(succeeded=False, reason="WrongInput", message=_shortened(message))
    return None


def _is_begun(view: View, pod: PodView) -> bool:
    """Whether the job has trained, or another node has joined; of what cannot be read it is taken to be so."""
    others = view.run.nodes.keys() - {pod.name} if view.run is not None else set()
    return view.has_trained or bool(others) or not view.is_readable


def _failed_too_often(view: View, ledger: Ledger) -> Verdict | None:
    policy, failures = view.job.spec.restart_policy, ledger.failures
    if len(failures) <= policy.max_failures:
        return None
    last: Failure = failures[-1]
    message = (
        f"{len(failures)} pods failed within {policy.window:g} s, and restartPolicy.maxFailures is "
        f"{policy.max_failures}; the last was {last.pod}: {last.reason}"
    )
    return Verdict(succeeded=False, reason="TooManyFailures", message=_shortened(message))


def _late(view: View) -> Verdict | None:
    spec, since_s = view.job.spec, active_since_s(view)
    limit_s = spec.start_deadline_seconds
    if limit_s is not None and not view.has_trained and view.is_due(since_s + limit_s):
        running = condition_of(view.job.status.conditions, "Running")
        why = f"; at last: {running.message}" if running is not None else ""
        message = f"fewer than nodes.min ({spec.nodes.min}) nodes ran within startDeadlineSeconds ({limit_s}){why}"
        return Verdict(succeeded=False, reason="StartDeadlineExceeded", message=_shortened(message))
    limit_s = spec.active_deadline_seconds
    if limit_s is not None and view.is_due(since_s + limit_s):
        message = f"not over within activeDeadlineSeconds ({limit_s}); give it more time in a new job"
        return Verdict(succeeded=False, reason="ActiveDeadlineExceeded", message=message)
    return None


def active_since_s(view: View) -> float:
    """Since when the job may have pods: its deadlines count from then."""
    suspended = condition_of(view.job.status.conditions, "Suspended")
    if suspended is None or suspended.status != "False":
        return view.now_s
    return seconds_of(suspended.last_transition_time)


def _shortened(message: str) -> str:
    """Without its middle, where it is too long: a traceback says most at its ends."""
    half = _REASON_CHARS_MAX // 2
    return message if len(message) <= 2 * half else f"{message[:half]}\n...\n{message[-half:]}"

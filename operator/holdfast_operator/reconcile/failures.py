"""What a pod that ended ended of, which failures count, and how long a replacement waits for them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from holdfast_operator.api.v1alpha1.elastic_job import RestartPolicy
from holdfast_operator.api.v1alpha1.status import Failure, NodeEntry
from holdfast_operator.api.v1alpha1.times import seconds_of, text_of
from holdfast_operator.reconcile import notices
from holdfast_operator.reconcile.brevity import shortened
from holdfast_operator.reconcile.notices import Departure
from holdfast_operator.reconcile.snapshot import ContainerEnd, PodPhase, PodView
from holdfast_operator.reconcile.view import View

# What explains an end (the job's outcome, a taint) may be seen a little later than the end itself.
_SETTLE_S = 5.0
# The kubelet's word for a container that was gone when its host came back.
_UNKNOWN_END = "ContainerStatusUnknown"
_EXIT_WRONG_INPUT = 2  # of an agent: trying again cannot help
# The reason of a pod that ran out of the time that its own template gives it: that is no host's doing.
_POD_DEADLINE = "DeadlineExceeded"


_REASON_BYTES_MAX = 1024
_REASONS_KEPT = 8


def departure(view: View, pod: PodView) -> Departure | None:
    """Of a pod that ended while it was wanted; None: it is not known yet what of."""
    end = pod.end
    target = pod.conditions.get(notices.DISRUPTION_TARGET)
    if target is not None and target.status:
        return _gone(view, "Lost", f"disruption: {target.reason} {target.message}".strip())
    if end is None or (end.init and pod.reason):
        return _unrun(view, pod)
    if end.reason == _UNKNOWN_END:
        return _gone(view, "Lost", "its host was away")
    if is_refusal(end):
        return _gone(view, "Failed", describe(end))
    if (explained := notices.loss(view, pod) or notices.notice(view, pod)) is not None:
        return _gone(view, "Lost", explained.reason)
    if end.finished_s is not None and not view.is_due(end.finished_s + _SETTLE_S):
        return None
    return _gone(view, "Left", "it left") if end.exit_code == 0 else _gone(view, "Failed", describe(end))


def _unrun(view: View, pod: PodView) -> Departure:
    """Of a pod whose agent never ran. A host that refused it, or gave it up, says why of the pod as a whole."""
    if pod.phase is not PodPhase.FAILED:
        return _gone(view, "Left", "it left")
    why = f"ended before it ran: {pod.reason} {pod.message}".strip()
    is_by_host = pod.reason not in ("", _POD_DEADLINE)
    return _gone(view, "Lost" if is_by_host else "Failed", why)


def is_refusal(end: ContainerEnd | None) -> bool:
    """Whether an agent refused its input; what an init container means by that code nobody knows."""
    return end is not None and not end.init and end.exit_code == _EXIT_WRONG_INPUT


def describe(end: ContainerEnd) -> str:
    """For people: how a container ended, and its last words."""
    if end.init:
        return f"init container {end.init}: {describe(replace(end, init=''))}"
    reason = f" ({end.reason})" if end.reason not in ("", "Error") else ""
    words = f": {end.message.strip()}" if end.message.strip() else ""
    return f"exit code {end.exit_code}{reason}{words}"


def within_window(view: View, failures: Iterable[Failure]) -> tuple[Failure, ...]:
    """Those that still count, oldest first."""
    window_s = view.job.spec.restart_policy.window
    recent = (failure for failure in failures if not view.is_due(seconds_of(failure.time) + window_s))
    return tuple(sorted(recent, key=lambda failure: (failure.time, failure.uid)))


def record(view: View, pod: PodView, entry: NodeEntry) -> Failure:
    reason = describe(pod.end) if pod.end is not None else entry.reason
    return Failure(pod=pod.name, uid=pod.uid, time=text_of(view.now_s), reason=shortened(reason, _REASON_BYTES_MAX))


def told(failures: Sequence[Failure]) -> tuple[Failure, ...]:
    """Oldest first, with the reasons of the newest: of the others only that they were is of use."""
    newest = max(0, len(failures) - _REASONS_KEPT)
    return (*(failure.model_copy(update={"reason": ""}) for failure in failures[:newest]), *failures[newest:])


def held_back(view: View, failures: Sequence[Failure], ledger: Iterable[NodeEntry]) -> int:
    """How many replacements have to wait: one for each failure of late, and one for each pod that was taken away before
    it joined, so that a host that takes pods and gives them up again is not fed for ever."""
    policy = view.job.spec.restart_policy
    early = sorted(e.since for e in ledger if e.since and not e.joined and e.leaving in ("Notice", "Lost", "Left"))
    times = [[seconds_of(failure.time) for failure in failures], [seconds_of(since) for since in early[1:]]]
    return sum(not view.is_due(due_s) for kind in times for due_s in _replaced_s(policy, kind))


def _replaced_s(policy: RestartPolicy, times: Sequence[float]) -> Iterator[float]:
    """When each is made good, the pause doubling from one to the next."""
    pause_s = policy.backoff
    for at_s in times:
        yield at_s + pause_s
        pause_s = min(2 * pause_s, policy.backoff_max)


def _gone(view: View, kind: notices.Kind, reason: str) -> Departure:
    return Departure(kind=kind, reason=reason, until_s=view.now_s)

"""What keeps a job from what its spec wants, the gravest first, each with what a person can do about it."""

from collections.abc import Iterator

from holdfast_operator.reconcile.failures import is_refusal
from holdfast_operator.reconcile.ledger import Ledger
from holdfast_operator.reconcile.notices import is_silent
from holdfast_operator.reconcile.pods import manifest_hash
from holdfast_operator.reconcile.sizing import Size, is_unschedulable
from holdfast_operator.reconcile.snapshot import PodView
from holdfast_operator.reconcile.suspending import Suspension
from holdfast_operator.reconcile.view import View
from holdfast_operator.status.facts import Trouble

# Why a container that is well does not run yet.
_STARTING = ("", "ContainerCreating", "PodInitializing")
# The kubelet says now the one, now the other.
_IMAGE_PULL = ("ErrImagePull", "ImagePullBackOff")


def troubles(view: View, ledger: Ledger, size: Size, suspension: Suspension, invalid: str) -> Iterator[Trouble]:
    if invalid:
        yield Trouble(reason="InvalidSpec", message=invalid)
    if suspension is Suspension.REFUSED:
        message = "suspend: true is not followed: the job has trained and has no state.url, so its state would be lost"
        yield Trouble(reason="SuspendRefused", message=message)
    for what, why in sorted(view.snapshot.refusals.items()):
        yield Trouble(reason="Refused", message=f"{what}: {why}")
    pods = [pod for entry in ledger.staying if (pod := view.pod_of(entry)) is not None]
    yield from _not_starting(pods)
    yield from _without_room(view, pods, size)
    if sum(view.is_ready(pod) for pod in pods) < size.wanted:
        yield from _failing(view, ledger)
    yield from _outdated(view, pods)
    yield from _hanging(view)
    yield from _shaky(view, pods)


def _not_starting(pods: list[PodView]) -> Iterator[Trouble]:
    stuck = [pod for pod in pods if pod.waiting not in _STARTING]
    if stuck:
        first = stuck[0]
        reason = "ImagePullBackOff" if first.waiting in _IMAGE_PULL else first.waiting
        message = f"{_pods(len(stuck))} cannot start; {first.name}: {first.waiting_message or reason}"
        yield Trouble(reason=reason, message=message)


def _without_room(view: View, pods: list[PodView], size: Size) -> Iterator[Trouble]:
    waiting = [pod for pod in pods if is_unschedulable(pod)]
    if waiting:
        fewer = size.wanted - size.asked
        less = f", and {fewer} more are not asked for until there is" if fewer else ""
        why = waiting[0].conditions["PodScheduled"].message
        message = f"there is no room for {_pods(len(waiting))}{less}; {waiting[0].name}: {why}"
        yield Trouble(reason="Unschedulable", message=message)


def _failing(view: View, ledger: Ledger) -> Iterator[Trouble]:
    if ledger.failures:
        last, policy = ledger.failures[-1], view.job.spec.restart_policy
        pod = view.pods.get(last.uid)
        is_refused = pod is not None and is_refusal(pod.end)
        message = (
            f"{_pods(len(ledger.failures))} failed within {policy.window:g} s (more than {policy.max_failures} fail "
            f"the job); the last was {last.pod}: {last.reason}"
        )
        yield Trouble(reason="WrongInput" if is_refused else "PodsFail", message=message)


def _outdated(view: View, pods: list[PodView]) -> Iterator[Trouble]:
    """Pods are not made anew for a changed template: that would stop a training that is well."""
    wanted = manifest_hash(view.job)
    old = [pod for pod in pods if pod.manifest_hash not in ("", wanted)]
    if old:
        message = (
            f"an earlier template or operator made {_pods(len(old))}, {old[0].name} among them; to renew them, "
            "drain one after the other (`holdfast k8s drain`)"
        )
        yield Trouble(reason="OldTemplate", message=message)


def _hanging(view: View) -> Iterator[Trouble]:
    """In Terminating, on hosts that are well, which is for a person to look into."""
    timeout_s = view.job.spec.pod_termination_timeout
    for pod in view.pods.values():
        if pod.deleted_s is None or not pod.host or is_silent(view, pod):
            continue
        if view.is_due(pod.deleted_s + (pod.grace_s or 0.0) + timeout_s):
            message = (
                f"{pod.name} should have ended by now and the host {pod.host} is well: it may run still, so it is not "
                f"removed by force; look at finalizers and volumes (`kubectl describe pod {pod.name}`)"
            )
            yield Trouble(reason="PodHangs", message=message)
            return


def _pods(count: int) -> str:
    return "1 pod" if count == 1 else f"{count} pods"


def _shaky(view: View, pods: list[PodView]) -> Iterator[Trouble]:
    """Whose agent is well, so that nothing is done."""
    for pod in pods:
        if pod.host in view.snapshot.hosts and is_silent(view, pod) and view.is_present(pod):
            message = f"the host {pod.host} does not answer the control plane, but {pod.name} on it trains on"
            yield Trouble(reason="HostNotReady", message=message)
            return

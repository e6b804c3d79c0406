"""What is done about nodes that leave: they are told to, waited for until nothing hangs on them or their time is over,
and removed."""

from collections.abc import Iterable, Iterator

from holdfast.model.ids import NodeId
from holdfast_operator.api.v1alpha1.names import pod_name
from holdfast_operator.api.v1alpha1.status import NodeEntry
from holdfast_operator.api.v1alpha1.times import seconds_of
from holdfast_operator.reconcile.actions import CancelDrain, DeletePod, DrainNode
from holdfast_operator.reconcile.ledger import UNSEEN_S, Ledger
from holdfast_operator.reconcile.notices import OPEN_GRACE_S, is_host_gone, is_silent
from holdfast_operator.reconcile.snapshot import PodView
from holdfast_operator.reconcile.view import View, has_ended

# Pods that failed stay so long as their failures count, for their logs: so many of the newest.
_FAILED_KEPT = 3
# What a drain's grace may differ by and still be meant: times in the ledger are in seconds.
_GRACE_SLACK_S = 2.0


def drains(view: View, entries: Iterable[NodeEntry]) -> Iterator[DrainNode]:
    """For nodes that are there and were not told to leave, or not so soon."""
    for entry in entries:
        pod = view.pod_of(entry)
        if not entry.leaving or pod is None or not view.is_readable or not view.is_present(pod):
            continue
        assert entry.since is not None
        node, whole_s, left_s = NodeId(pod.name), OPEN_GRACE_S, OPEN_GRACE_S
        if entry.until is not None:
            until_s = seconds_of(entry.until)
            whole_s, left_s = until_s - seconds_of(entry.since), max(0.0, until_s - view.now_s)
        drain = view.drain_of(node)
        if drain is None or not (drain.is_released or drain.grace_s <= whole_s + _GRACE_SLACK_S):
            yield DrainNode(node=node, grace_s=left_s, reason=entry.reason)


def removals(view: View, ledger: Ledger, *, is_over: bool) -> Iterator[DeletePod]:
    """Of pods on which nothing hangs any more, or whose time is over. Once the job is over those that end by themselves
    stay, for their logs."""
    kept = _kept_for_logs(view, ledger)
    for entry in ledger.leaving:
        pod = view.pod_of(entry)
        if pod is None or pod.deleted_s is not None or entry.uid in kept:
            continue
        ends_by_itself = has_ended(pod) or (entry.joined and not _is_late(view, entry))
        if is_over and ends_by_itself and not view.holds_host(pod):
            continue
        if is_host_gone(view, pod) and entry.leaving == "Lost":
            yield DeletePod(name=pod.name, uid=pod.uid, grace_s=0)
        elif not _is_waited_for(view, entry, pod):
            yield DeletePod(name=pod.name, uid=pod.uid)


def forced(view: View) -> Iterator[DeletePod]:
    """Of pods that hang in Terminating: on a host that is lost nobody will ever say that one has ended. On one that is
    well its processes may run still, and its name and its devices are theirs until the kubelet says otherwise."""
    for pod in view.pods.values():
        if pod.deleted_s is None or not is_silent(view, pod):
            continue
        if is_host_gone(view, pod) or view.is_due(pod.deleted_s + view.job.spec.pod_termination_timeout):
            yield DeletePod(name=pod.name, uid=pod.uid, grace_s=0)


def cancellations(view: View) -> Iterator[CancelDrain]:
    """Of drains that were not honoured and whose nodes are gone: what takes such a name is not meant. The generation
    that a node was a member of must have ended without it, or there is nobody left who would look for it."""
    run = view.run
    if run is None or not view.is_readable:
        return
    pods = {pod.name for pod in view.pods.values()}
    indices = {entry.index for entry in view.job.status.ledger}
    for node in sorted({NodeId(pod_name(view.job.metadata.name, index)) for index in indices} & run.drains.keys()):
        is_missed = node in run.members and bool(run.nodes)
        if not run.drains[node].is_released and node not in run.nodes and node not in pods and not is_missed:
            yield CancelDrain(node=node)


def _is_waited_for(view: View, entry: NodeEntry, pod: PodView) -> bool:
    if entry.leaving in ("Lost", "Failed") or has_ended(pod) or not pod.host:
        return False
    return not (_has_left(view, entry, pod) or _is_late(view, entry))


def _has_left(view: View, entry: NodeEntry, pod: PodView) -> bool:
    """Whether its agent is gone for good: it was let go, or is absent for longer than a lease is late. One that is
    still to move what it holds may come back to that until its time is over."""
    if not view.is_readable or view.is_present(pod):
        return False
    drain = view.drain_of(NodeId(pod.name))
    if drain is not None and (drain.is_released or (entry.joined and entry.until is not None)):
        return drain.is_released
    return entry.absent is not None and view.is_due(seconds_of(entry.absent) + UNSEEN_S)


def _is_late(view: View, entry: NodeEntry) -> bool:
    return entry.until is not None and view.is_due(seconds_of(entry.until))


def _kept_for_logs(view: View, ledger: Ledger) -> set[str]:
    counting = {failure.uid for failure in ledger.failures}
    failed = [entry for entry in ledger.leaving if entry.uid in counting and entry.leaving == "Failed"]
    newest = sorted(failed, key=lambda entry: (entry.since or "", entry.uid))[-_FAILED_KEPT:]
    return {entry.uid for entry in newest if entry.uid in view.pods and not view.holds_host(view.pods[entry.uid])}

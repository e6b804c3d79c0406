"""How many pods are asked for. What the cluster has had no room for in a while is not asked for any longer, but for one
pod that probes for room: once that gets a host, twice as many are asked for. So a cluster that is full holds one pod of
the job that waits, one that grows is filled in a few rounds, and nothing changes while nothing happens."""

from dataclasses import dataclass

from holdfast_operator.api.v1alpha1.elastic_job import Nodes
from holdfast_operator.api.v1alpha1.status import NodeCounts
from holdfast_operator.reconcile.ledger import Ledger
from holdfast_operator.reconcile.snapshot import PodView
from holdfast_operator.reconcile.view import View

# A pod for which there was no room for so long is given up: longer than an autoscaler takes for a new host.
UNSCHEDULABLE_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    wanted: int  # by the spec
    asked: int


def size(view: View, ledger: Ledger) -> Size:
    """From what was asked for before. A spec that wants another number is asked for in full at first."""
    before, wanted = view.job.status.nodes, wanted_by(view.job.spec.nodes)
    if before.desired == 0 or before.wanted != wanted:
        return Size(wanted=wanted, asked=wanted)
    return Size(wanted=wanted, asked=_adapted(view, ledger, before))


def wanted_by(nodes: Nodes) -> int:
    return max(nodes.min, min(nodes.desired or nodes.max, nodes.max))


def is_unschedulable(pod: PodView) -> bool:
    """The scheduler has looked for a host and found none. A pod that is gated was not looked at."""
    scheduled = pod.conditions.get("PodScheduled")
    return not pod.host and scheduled is not None and scheduled.status is False and scheduled.reason == "Unschedulable"


def _adapted(view: View, ledger: Ledger, before: NodeCounts) -> int:
    pods = [view.pod_of(entry) for entry in ledger.staying]
    if before.desired < before.wanted and sum(pod is not None and bool(pod.host) for pod in pods) >= before.desired:
        return min(before.wanted, 2 * before.desired)
    given_up = sum(pod is not None and is_unschedulable(pod) and _is_late(view, pod) for pod in pods)
    if given_up == 0:
        return before.desired
    least = max(view.job.spec.nodes.min, before.desired - given_up + 1)
    return min(before.desired, least)


def _is_late(view: View, pod: PodView) -> bool:
    since_s = pod.conditions["PodScheduled"].since_s
    return view.is_due((since_s if since_s is not None else pod.created_s) + UNSCHEDULABLE_S)

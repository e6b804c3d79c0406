"""Which pods go away, and until when, as the cluster and the rendezvous tell. A pod's phase lies on a host that is
lost, and a host's taints are not told to its pods: both are looked at, and the rendezvous, which hears first."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Literal

from holdfast.model.ids import NodeId
from holdfast_operator.reconcile.snapshot import HostView, PodView, Taint
from holdfast_operator.reconcile.view import View, has_ended

UNREACHABLE = "node.kubernetes.io/unreachable"
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
DISRUPTION_TARGET = "DisruptionTarget"

# Effects that keep pods off a host; what is merely preferred may be taken back.
_BINDING = ("NoSchedule", "NoExecute")
# A host that is not there so shortly after a pod was bound to it is merely not seen yet.
_HOST_SEEN_S = 30.0
# A taint's value that is a time lies within so many seconds of now: the autoscaler writes when it set the taint.
_TIME_SPAN_S = 86_400.0

# Of a node that nobody has said an end of: it stays until nothing hangs on it, however long its storage is away. A
# drain has to have a grace, so this is longer than any outage.
OPEN_GRACE_S = 30 * 86_400.0

Kind = Literal["Notice", "Lost", "Left", "Failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """Why a pod goes, and when it is gone at the latest."""

    kind: Kind
    reason: str
    until_s: float  # infinite: nobody has said


def loss(view: View, pod: PodView) -> Departure | None:
    """Its host is gone or silent, and so is its agent: agents hear of each other long before a host counts as lost.
    What cannot be read does not tell that an agent is gone."""
    if not pod.host or view.is_present(pod):
        return None
    if not (view.is_readable or has_ended(pod) or is_host_gone(view, pod)):
        return None
    why = _host_trouble(view, pod)
    return Departure(kind="Lost", reason=why, until_s=view.now_s) if why else None


def is_host_gone(view: View, pod: PodView) -> bool:
    """For good, so that nobody will say that the pod has ended."""
    host = view.snapshot.hosts.get(pod.host)
    if host is None:
        return bool(pod.host) and _is_missing(view, pod)
    return any(taint.key == OUT_OF_SERVICE for taint in host.taints)


def is_silent(view: View, pod: PodView) -> bool:
    """Whether its host is not there, or does not answer the control plane."""
    host = view.snapshot.hosts.get(pod.host)
    return host is None or not host.is_ready or any(taint.key in (UNREACHABLE, OUT_OF_SERVICE) for taint in host.taints)


def notice(view: View, pod: PodView) -> Departure | None:
    """The soonest end that anybody has announced of a pod that is there."""
    return min(_notices(view, pod), key=lambda departure: departure.until_s, default=None)


def _notices(view: View, pod: PodView) -> Iterator[Departure]:
    if pod.deleted_s is not None:
        # Its agent has got SIGTERM and leaves by itself; this is for those that do not hear of it.
        yield _notice("the pod is being deleted", pod.deleted_s + (pod.grace_s or 0.0))
    notice_s = view.job.spec.preemption.notice
    target = pod.conditions.get(DISRUPTION_TARGET)
    if target is not None and target.status:
        yield _notice(f"disruption: {target.reason} {target.message}".strip(), view.now_s + notice_s)
    if pod.drain_wanted_s is not None:
        yield _notice("asked for", view.now_s + pod.drain_wanted_s)
    if pod.host:
        host = view.snapshot.hosts.get(pod.host)
        if host is not None:
            yield from _announced(view, host)
        elif _is_missing(view, pod):
            yield _notice(f"the host {pod.host} was deleted", view.now_s + notice_s)
    drain = view.drain_of(NodeId(pod.name))
    if drain is not None and view.is_present(pod):
        ends_s = view.now_s + drain.grace_s if drain.grace_s < OPEN_GRACE_S else inf
        yield _notice(drain.reason or "drained", ends_s)


def _announced(view: View, host: HostView) -> Iterator[Departure]:
    """By the host's taints, and by its being closed, which the control plane turns into a taint in its own time."""
    preemption = view.job.spec.preemption
    for taint in host.taints:
        is_listed = taint.key in preemption.notice_taints or taint.key == OUT_OF_SERVICE
        if is_listed and taint.key != UNSCHEDULABLE and taint.effect in _BINDING:
            yield _notice(f"taint {taint.key} on host {host.name}", _end_s(taint, preemption.notice, view.now_s))
    is_closed = host.is_unschedulable or any(taint.key == UNSCHEDULABLE for taint in host.taints)
    if is_closed and UNSCHEDULABLE in preemption.notice_taints:
        yield _notice(f"the host {host.name} takes no more pods (cordoned)", inf)


def _end_s(taint: Taint, notice_s: float, now_s: float) -> float:
    """From when the taint was set, where that is told. An end that is over and did not come is not believed."""
    since_s = taint.since_s if taint.since_s is not None else _time_in(taint.value, now_s)
    ends_s = (since_s if since_s is not None else now_s) + notice_s
    return ends_s if ends_s > now_s else now_s + notice_s


def _time_in(value: str, now_s: float) -> float | None:
    if not value.isascii() or not value.isdigit():
        return None
    return float(value) if abs(int(value) - now_s) < _TIME_SPAN_S else None


def _host_trouble(view: View, pod: PodView) -> str:
    host = view.snapshot.hosts.get(pod.host)
    if host is None:
        return f"the host {pod.host} was deleted" if _is_missing(view, pod) else ""
    if keys := [taint.key for taint in host.taints if taint.key in (UNREACHABLE, OUT_OF_SERVICE)]:
        return f"taint {keys[0]} on host {host.name}"
    return "" if host.is_ready else f"the host {host.name} is not ready"


def _is_missing(view: View, pod: PodView) -> bool:
    scheduled = pod.conditions.get("PodScheduled")
    since_s = scheduled.since_s if scheduled is not None and scheduled.since_s is not None else pod.created_s
    return view.is_due(since_s + _HOST_SEEN_S)


def _notice(reason: str, until_s: float) -> Departure:
    return Departure(kind="Notice", reason=reason, until_s=until_s)

"""Snapshots of the job `gpt`, put together by hand."""

from typing import Any

from harness.reconciling.jobs import job
from holdfast.model.ids import NodeId
from holdfast.telemetry.run_state import RunState
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJob
from holdfast_operator.api.v1alpha1.status import ElasticJobStatus, NodeEntry
from holdfast_operator.reconcile.actions import Action, Decision, WriteStatus
from holdfast_operator.reconcile.deciding import reconcile
from holdfast_operator.reconcile.snapshot import HostView, PodPhase, PodView, RunDrain, RunNode, RunSnapshot, Snapshot

NOW_S = 1_000_000.0


def pod(index: int, **fields: Any) -> PodView:
    """A pod that has run for long, on a host of its own."""
    known: dict[str, Any] = {"name": f"gpt-{index}", "uid": f"uid-{index}", "index": index, "host": f"host-{index}"}
    return PodView(**known | {"phase": PodPhase.RUNNING, "created_s": NOW_S - 1000.0} | fields)


def host(index: int, **fields: Any) -> HostView:
    known: dict[str, Any] = {"name": f"host-{index}", "is_ready": True}
    return HostView(**known | fields)


def entry(index: int, **fields: Any) -> NodeEntry:
    """Of a pod that has joined."""
    known: dict[str, Any] = {"index": index, "uid": f"uid-{index}", "joined": True}
    return NodeEntry(**known | fields)


def run(*indices: int, drains: dict[int, RunDrain] | None = None, **fields: Any) -> RunSnapshot:
    """A job that trains on the nodes of these indices."""
    nodes = [NodeId(f"gpt-{index}") for index in indices]
    known: dict[str, Any] = {
        "state": RunState.TRAINING,
        "step": 7,
        "steps": 100,
        "generation": 3,
        "layout": "1x1",
        "members": frozenset(nodes),
        "nodes": {node: RunNode(node=node, incarnation=f"of-{node}", is_warm=True) for node in nodes},
        "drains": {NodeId(f"gpt-{index}"): drain for index, drain in (drains or {}).items()},
        "samples_per_s": 123.4,
        "goodput": 0.987,
        "recoveries": 0,
        "checkpoint": None,
        "outcome": None,
    }
    return RunSnapshot(**known | fields)


def drain(index: int, *, grace_s: float = 25.0, is_released: bool = False) -> RunDrain:
    return RunDrain(node=NodeId(f"gpt-{index}"), grace_s=grace_s, is_released=is_released)


def snapshot(
    *pods: PodView, of: ElasticJob | None = None, status: ElasticJobStatus | None = None, **fields: Any
) -> Snapshot:
    """Of a job all of whose pods are in its ledger, on hosts that are well, where `fields` and `status` do not say
    otherwise."""
    held = of if of is not None else job(nodes={"min": 1, "max": max(1, len(pods))})
    if status is None:
        status = ElasticJobStatus(ledger=tuple(entry(pod.index, uid=pod.uid) for pod in pods), observed_generation=1)
    known: dict[str, Any] = {
        "now_s": NOW_S,
        "job": held.model_copy(update={"status": status}),
        "pods": pods,
        "hosts": {pod.host: HostView(name=pod.host, is_ready=True) for pod in pods if pod.host},
        "run": run(*(pod.index for pod in pods)),
        "has_secret": True,
        "config": "name: gpt",
    }
    return Snapshot(**known | fields)


def status_after(seen: Snapshot) -> ElasticJobStatus:
    """What `reconcile` writes, or what was there."""
    return written(reconcile(seen)) or seen.job.status


def written(decision: Decision) -> ElasticJobStatus | None:
    return next((action.status for action in decision.actions if isinstance(action, WriteStatus)), None)


def entry_after(seen: Snapshot, index: int) -> NodeEntry:
    return next(entry for entry in status_after(seen).ledger if entry.index == index)


def kinds(actions: tuple[Action, ...]) -> list[str]:
    return [type(action).__name__ for action in actions]

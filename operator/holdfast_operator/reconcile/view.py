"""A snapshot with what is looked up in it again and again."""

from collections.abc import Mapping
from functools import cached_property

from holdfast.model.ids import NodeId
from holdfast.telemetry.run_state import RunState
from holdfast_operator.api.v1alpha1 import names
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJob
from holdfast_operator.api.v1alpha1.status import NodeEntry
from holdfast_operator.reconcile.snapshot import PodPhase, PodView, RunDrain, RunSnapshot, Snapshot


class View:
    """Read only, but for the times at which it is to be looked at again."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._wake_at_s: list[float] = []

    @property
    def job(self) -> ElasticJob:
        return self.snapshot.job

    @property
    def now_s(self) -> float:
        return self.snapshot.now_s

    @property
    def run(self) -> RunSnapshot | None:
        return self.snapshot.run

    @property
    def is_readable(self) -> bool:
        """Whether the rendezvous is."""
        return not self.snapshot.store_trouble

    @cached_property
    def pods(self) -> Mapping[str, PodView]:
        """By uid, in the order of their names."""
        return {pod.uid: pod for pod in sorted(self.snapshot.pods, key=lambda pod: (pod.index, pod.uid))}

    def node(self, index: int) -> NodeId:
        return NodeId(names.pod_name(self.job.metadata.name, index))

    def pod_of(self, entry: NodeEntry) -> PodView | None:
        return self.pods.get(entry.uid)

    def is_present(self, pod: PodView) -> bool:
        """Whether its agent holds a lease. A pod that never ran has the name of one that did, at most."""
        is_started = pod.phase in (PodPhase.RUNNING, PodPhase.UNKNOWN) and pod.end is None
        return is_started and self.run is not None and NodeId(pod.name) in self.run.nodes

    def is_ready(self, pod: PodView) -> bool:
        """Whether it takes part, or may at any time."""
        return self.is_present(pod) and self.run is not None and self.run.nodes[NodeId(pod.name)].is_warm

    def is_member(self, node: NodeId) -> bool:
        """Of the newest generation."""
        return self.run is not None and node in self.run.members

    def drain_of(self, node: NodeId) -> RunDrain | None:
        return self.run.drains.get(node) if self.run is not None else None

    def holds_host(self, pod: PodView) -> bool:
        """Although its agent ended some time ago: another of its containers runs on."""
        if pod.end is None or pod.phase in (PodPhase.SUCCEEDED, PodPhase.FAILED):
            return False
        finished_s = pod.end.finished_s if pod.end.finished_s is not None else pod.created_s
        return self.is_due(finished_s + self.job.spec.pod_termination_timeout)

    @property
    def has_trained(self) -> bool:
        """Whether there is state that is worth anything."""
        run = self.run
        is_under_way = run is not None and (run.step > 0 or run.state in (RunState.TRAINING, RunState.RESHAPING))
        return is_under_way or self.job.status.started_time is not None

    def is_due(self, at_s: float) -> bool:
        """Whether that time has come; if not, the job is looked at again then."""
        if self.now_s >= at_s:
            return True
        self._wake_at_s.append(at_s)
        return False

    @property
    def look_again_s(self) -> float | None:
        return min(self._wake_at_s) - self.now_s if self._wake_at_s else None


def has_ended(pod: PodView) -> bool:
    return pod.end is not None or pod.phase in (PodPhase.SUCCEEDED, PodPhase.FAILED)

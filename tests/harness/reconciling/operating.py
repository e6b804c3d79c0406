"""Operators that reconcile the job of a made-up cluster: each sees it through caches that lag, and may die after any of
its actions."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from harness.reconciling.cluster import Cluster, Stream
from holdfast.model.ids import NodeId
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJob
from holdfast_operator.api.v1alpha1.times import seconds_of
from holdfast_operator.reconcile.actions import (
    Action,
    ApplyConfig,
    CancelDrain,
    CreatePod,
    CreateSecret,
    Decision,
    DeleteJob,
    DeletePod,
    DrainNode,
    WriteStatus,
)
from holdfast_operator.reconcile.deciding import reconcile
from holdfast_operator.reconcile.snapshot import PodPhase, PodView, RunDrain, Snapshot

# How many versions a cache is behind, of the most that it may be: of what is older than `LAG_S` every one is seen.
LAG_S = 8.0
Behind = Callable[[int], int]


def no_lag(_: int) -> int:
    return 0


@dataclass(slots=True)
class Operator:
    """`behind`: how many versions each of its caches is behind, of so many that it could be."""

    cluster: Cluster
    behind: Behind = no_lag
    seen: dict[str, int] = field(default_factory=dict)
    has_secret: bool = False
    config: str | None = None
    done: int = 0  # actions
    dies_after: int | None = None  # the action after which it ends, and is replaced by one that knows nothing
    lives: int = 1
    is_blind: bool = False  # it cannot reach the rendezvous
    decisions: list[Decision] = field(default_factory=list)

    def look(self) -> Snapshot:
        cluster = self.cluster
        return Snapshot(
            now_s=cluster.now_s,
            job=self._seen("job", cluster.job),
            pods=tuple(self._seen("pods", cluster.pods).values()),
            hosts=self._seen("hosts", cluster.hosts),
            run=self._seen("run", cluster.run),
            store_trouble="away" if self.is_blind else "",
            has_secret=self.has_secret,
            config=self.config,
        )

    def act(self, cut_after: int | None = None) -> Decision:
        """One pass, of which no more than `cut_after` actions are done."""
        snapshot = self.look()
        decision = reconcile(snapshot)
        self.carry_out(snapshot, decision, cut_after)
        return decision

    def carry_out(self, snapshot: Snapshot, decision: Decision, cut_after: int | None = None) -> None:
        self.decisions.append(decision)
        check_deletions(self.cluster, snapshot, decision)
        for action in decision.actions[:cut_after]:
            if not self._do(action, snapshot.job):
                return
            self.done += 1
            check_size(self.cluster)
            if self.done == self.dies_after:
                self.lives += 1
                self.seen.clear()
                return

    def _seen(self, name: str, stream: Stream[Any]) -> Any:
        newest = len(stream.versions) - 1
        if name == "run" and self.is_blind:
            return stream.versions[self.seen.get(name, 0)]
        oldest = max(self.seen.get(name, newest), stream.oldest(self.cluster.now_s - LAG_S))
        self.seen[name] = newest - self.behind(newest - oldest)
        return stream.versions[self.seen[name]]

    def _do(self, action: Action, job: ElasticJob) -> bool:
        """Whether the pass goes on."""
        cluster = self.cluster
        match action:
            case CreateSecret():
                self.has_secret = True
            case ApplyConfig(spec=spec):
                self.config = spec
            case WriteStatus(status=status):
                held = cluster.job.now
                if held.metadata.resource_version != job.metadata.resource_version:
                    return False
                cluster.write_job(held.model_copy(update={"status": status}))
            case CreatePod(name=name):
                self._create(name)
            case DeletePod(uid=uid, grace_s=grace_s):
                self._delete(uid, grace_s)
            case DrainNode() | CancelDrain() if self.is_blind:
                raise AssertionError("it acts on what it cannot see")
            case DrainNode(node=node, grace_s=grace_s, reason=reason):
                self._drain(node, grace_s, reason)
            case CancelDrain(node=node):
                run = cluster.run.now
                if run is not None and node in run.drains:
                    cluster.run.write(
                        replace(run, drains={n: d for n, d in run.drains.items() if n != node}), cluster.now_s
                    )
            case DeleteJob():
                raise AssertionError("no job here has a ttl")
        return True

    def _create(self, name: str) -> None:
        cluster = self.cluster
        if any(pod.name == name for pod in cluster.pods.now.values()):
            return
        cluster.makes += 1
        index = int(name.rpartition("-")[2])
        uid = f"uid-{cluster.makes}"
        cluster.put(PodView(name=name, uid=uid, index=index, phase=PodPhase.PENDING, created_s=cluster.now_s))

    def _delete(self, uid: str, grace_s: int | None) -> None:
        pod = self.cluster.pods.now.get(uid)
        if pod is None:
            return
        if grace_s == 0 or not pod.host:
            self.cluster.remove(pod)
        elif pod.deleted_s is None:
            self.cluster.put(replace(pod, deleted_s=self.cluster.now_s, grace_s=55.0))

    def _drain(self, node: NodeId, grace_s: float, reason: str) -> None:
        run = self.cluster.run.now
        assert run is not None
        held = run.drains.get(node)
        if held is None or not (held.is_released or held.grace_s <= grace_s):
            drain = RunDrain(node=node, grace_s=grace_s, is_released=False, reason=reason)
            self.cluster.run.write(replace(run, drains={**run.drains, node: drain}), self.cluster.now_s)


def check_size(cluster: Cluster) -> None:
    """Never more pods than the job may have, of those that are not to leave."""
    job = cluster.job.now
    leaving = {entry.uid for entry in job.status.ledger if entry.leaving}
    live = [pod.name for pod in cluster.pods.now.values() if _is_live(pod) and pod.uid not in leaving]
    assert len(live) <= job.spec.nodes.max, f"{live} live, and nodes.max is {job.spec.nodes.max}"


def check_deletions(cluster: Cluster, snapshot: Snapshot, decision: Decision) -> None:
    """No pod goes whose node is in the rendezvous, has been for as long as caches lag, and was not let go, unless its
    time is over."""
    status = next((a.status for a in decision.actions if isinstance(a, WriteStatus)), snapshot.job.status)
    entries = {entry.uid: entry for entry in status.ledger}
    run, known = cluster.run.now, cluster.run.versions[max(0, cluster.run.oldest(cluster.now_s - LAG_S))]
    for action in decision.actions:
        pod = cluster.pods.now.get(action.uid) if isinstance(action, DeletePod) else None
        if pod is None or run is None or known is None or pod.deleted_s is not None or pod not in cluster.running():
            continue
        drain = run.drains.get(NodeId(pod.name))
        is_there = all(NodeId(pod.name) in each.nodes for each in (run, known))
        if is_there and (drain is None or not drain.is_released):
            entry = entries[pod.uid]
            assert entry.until is not None, f"{pod.name} goes, holds state, and nobody said until when: {entry}"
            assert snapshot.now_s >= seconds_of(entry.until), f"{pod.name} goes and holds state: {entry}"


def _is_live(pod: PodView) -> bool:
    return pod.deleted_s is None and pod.phase in (PodPhase.PENDING, PodPhase.RUNNING)

"""A cluster made up of what `reconcile` sees and does: pods, hosts, the job's rendezvous. What happens in it happens in
single steps, drawn by whoever plays it; every version of each of its parts is kept, so that caches can lag."""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from holdfast.model.ids import NodeId
from holdfast.model.records import OutcomeRecord, Result
from holdfast.telemetry.run_state import RunState
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJob
from holdfast_operator.api.v1alpha1.status import NodeEntry
from holdfast_operator.reconcile.snapshot import (
    Condition,
    ContainerEnd,
    HostView,
    PodPhase,
    PodView,
    RunDrain,
    RunNode,
    RunSnapshot,
    Taint,
)

T = TypeVar("T")
Pods = Mapping[str, PodView]
Hosts = Mapping[str, HostView]
NOTICE = "aws-node-termination-handler/spot-itn"


@dataclass(slots=True)
class Stream(Generic[T]):
    """One of the cluster's parts and all that it was, oldest first."""

    versions: list[T]
    times_s: list[float] = field(default_factory=lambda: [0.0])

    @property
    def now(self) -> T:
        return self.versions[-1]

    def write(self, value: T, now_s: float) -> None:
        if value != self.now:
            self.versions.append(value)
            self.times_s.append(now_s)

    def oldest(self, since_s: float) -> int:
        """The version that was the newest at that time."""
        return bisect_right(self.times_s, since_s) - 1


@dataclass(slots=True)
class Cluster:
    """`capacity`: pods that a host has room for."""

    job: Stream[ElasticJob]
    hosts: Stream[Hosts]
    capacity: int = 1
    now_s: float = 1_000_000.0
    pods: Stream[Pods] = field(default_factory=lambda: Stream([{}]))
    run: Stream[RunSnapshot | None] = field(default_factory=lambda: Stream([None]))
    dead: set[str] = field(default_factory=set)  # hosts on which nothing runs any more
    faulted: set[str] = field(default_factory=set)  # uids of pods that were taken away, or got notice
    makes: int = 0  # pods that were ever made
    asked: set[str] = field(default_factory=set)  # uids of pods that the operator had no more use for
    ledgers: dict[str, NodeEntry] = field(default_factory=dict)  # the last entry of each pod, by uid, of all ever

    # What the cluster's own parts do; each tells whether there was anything to do.

    def schedule(self) -> bool:
        for pod in self._pods(lambda pod: not pod.host and pod.phase is PodPhase.PENDING and pod.deleted_s is None):
            room = [host for host in self.hosts.now.values() if self._has_room(host)]
            if room:
                bound = Condition(type="PodScheduled", status=True, since_s=self.now_s)
                self.put(replace(pod, host=room[0].name, conditions={**pod.conditions, "PodScheduled": bound}))
                return True
            if "PodScheduled" not in pod.conditions:
                waits = Condition(type="PodScheduled", status=False, reason="Unschedulable", since_s=self.now_s)
                self.put(replace(pod, conditions={**pod.conditions, "PodScheduled": waits}))
                return True
        return False

    def start(self) -> bool:
        for pod in self._pods(lambda pod: bool(pod.host) and pod.phase is PodPhase.PENDING and pod.deleted_s is None):
            if self._lives(pod):
                self.put(replace(pod, phase=PodPhase.RUNNING))
                return True
        return False

    def join(self) -> bool:
        for pod in self._pods(self._runs):
            node, run = NodeId(pod.name), self._run()
            if node in run.nodes or pod.deleted_s is not None or run.outcome is not None:
                continue
            drains = {n: d for n, d in run.drains.items() if n != node or not d.is_released}
            nodes = {**run.nodes, node: RunNode(node=node, incarnation=pod.uid, is_warm=True)}
            self.run.write(replace(run, nodes=nodes, drains=drains), self.now_s)
            return True
        return False

    def coordinate(self) -> bool:
        """The next generation: without those who are gone or drain, with those who came."""
        run = self._run()
        able = frozenset(node for node in run.nodes if node not in run.drains)
        is_enough = len(able) >= self.job.now.spec.nodes.min
        # Where all leave, they write what they hold to the storage, and are let go.
        members = able if is_enough or not able else run.members & run.nodes.keys()
        drains = {
            node: replace(drain, is_released=True) if node not in members and node in run.nodes else drain
            for node, drain in run.drains.items()
        }
        drains = {n: d for n, d in drains.items() if n in run.nodes or n in members or not d.is_released}
        lost = run.members - run.nodes.keys() - run.drains.keys()
        state = RunState.TRAINING if is_enough else RunState.HOLDING if run.generation else RunState.STARTING
        if members == run.members and drains == run.drains and state is run.state:
            return False
        number = (run.generation or 0) + (members != run.members)
        changed = replace(run, members=members, drains=drains, state=state, generation=number)
        self.run.write(replace(changed, recoveries=run.recoveries + bool(lost)), self.now_s)
        return True

    def train(self) -> bool:
        run = self._run()
        if run.state is not RunState.TRAINING or run.outcome is not None:
            return False
        step = run.step + 1
        self.run.write(replace(run, step=step), self.now_s)
        if step >= run.steps:
            self.end(Result.COMPLETED)
        return True

    def leave(self) -> bool:
        """Agents that were let go, that a job is over for, or that were killed as their pod was deleted."""
        for pod in self._pods(self._runs):
            run, node = self._run(), NodeId(pod.name)
            drain = run.drains.get(node)
            if node in run.nodes and ((drain is not None and drain.is_released) or run.outcome is not None):
                self._agent_ends(pod, 0)
                return True
        return False

    def terminate(self) -> bool:
        """The kubelet's part in a deletion: SIGTERM, by which an agent drains itself, and the end."""
        for pod in self._pods(lambda pod: pod.deleted_s is not None and self._lives(pod)):
            node, run = NodeId(pod.name), self._run()
            assert pod.deleted_s is not None
            grace_s = pod.grace_s or 0.0
            if self._runs(pod) and node in run.nodes and self.now_s < pod.deleted_s + grace_s:
                if node not in run.drains:
                    drain = RunDrain(node=node, grace_s=grace_s, is_released=False, reason="SIGTERM")
                    self.run.write(replace(run, drains={**run.drains, node: drain}), self.now_s)
                    return True
                continue
            self.remove(pod)
            return True
        return False

    def expire(self) -> bool:
        """Leases of agents that are dead."""
        run = self._run()
        alive = {NodeId(pod.name): pod.uid for pod in self._pods(self._runs)}
        nodes = {node: held for node, held in run.nodes.items() if alive.get(node) == held.incarnation}
        self.run.write(replace(run, nodes=nodes), self.now_s)
        return nodes != run.nodes

    def collect(self) -> bool:
        """Pods of hosts that were deleted, by the control plane."""
        for pod in self._pods(lambda pod: bool(pod.host) and pod.host not in self.hosts.now):
            self.remove(pod)
            return True
        return False

    # Faults, and what people do.

    def fault(self, pods: list[PodView]) -> None:
        self.faulted |= {pod.uid for pod in pods}

    def on(self, host: str) -> list[PodView]:
        return self._pods(lambda pod: pod.host == host)

    def taint(self, host: str) -> None:
        self.fault(self.on(host))
        held = self.hosts.now[host]
        self._host(replace(held, taints=(*held.taints, Taint(key=NOTICE, effect="NoSchedule"))))

    def cordon(self, host: str) -> None:
        self.fault(self.on(host))
        self._host(replace(self.hosts.now[host], is_unschedulable=True))

    def silence(self, host: str) -> None:
        """It is lost without a word, which the control plane notices."""
        self.fault(self.on(host))
        self.dead.add(host)
        self._host(replace(self.hosts.now[host], is_ready=None))

    def delete_host(self, host: str) -> None:
        self.fault(self.on(host))
        self.dead.add(host)
        self.hosts.write({name: held for name, held in self.hosts.now.items() if name != host}, self.now_s)

    def add_host(self, name: str) -> None:
        self._host(HostView(name=name, is_ready=True))

    def evict(self, pod: PodView) -> None:
        self.fault([pod])
        self.put(replace(pod, deleted_s=self.now_s, grace_s=55.0))

    def snatch(self, pod: PodView) -> None:
        """Its object is removed by force."""
        self.fault([pod])
        self.remove(pod)

    def crash(self, pod: PodView, exit_code: int = 137) -> None:
        self._agent_ends(pod, exit_code)

    def end(self, result: Result) -> None:
        run = self._run()
        outcome = OutcomeRecord(result=result, reason="as it was to be", step=run.step)
        self.run.write(replace(run, outcome=outcome, state=RunState.FINISHED), self.now_s)

    # Writes.

    def suspend(self, wanted: bool) -> None:
        self._respecify({"suspend": wanted})

    def write_job(self, job: ElasticJob) -> None:
        """As the API server writes an object: every version has a number."""
        for entry in job.status.ledger:
            self.ledgers[entry.uid] = entry
            if entry.leaving == "Asked":
                self.asked.add(entry.uid)
        version = str(len(self.job.versions) + 1)
        metadata = job.metadata.model_copy(update={"resource_version": version})
        self.job.write(job.model_copy(update={"metadata": metadata}), self.now_s)

    def scale(self, count: int) -> None:
        self._respecify({"nodes": self.job.now.spec.nodes.model_copy(update={"desired": count})})

    def _respecify(self, changes: dict[str, Any]) -> None:
        held = self.job.now
        metadata = held.metadata.model_copy(update={"generation": held.metadata.generation + 1})
        self.write_job(held.model_copy(update={"metadata": metadata, "spec": held.spec.model_copy(update=changes)}))

    def put(self, pod: PodView) -> None:
        self.pods.write({**self.pods.now, pod.uid: pod}, self.now_s)

    def remove(self, pod: PodView) -> None:
        self.pods.write({uid: held for uid, held in self.pods.now.items() if uid != pod.uid}, self.now_s)

    def _host(self, host: HostView) -> None:
        self.hosts.write({**self.hosts.now, host.name: host}, self.now_s)

    def _agent_ends(self, pod: PodView, exit_code: int) -> None:
        end = ContainerEnd(exit_code=exit_code, finished_s=self.now_s)
        self.put(replace(pod, phase=PodPhase.FAILED if exit_code else PodPhase.SUCCEEDED, end=end))
        run = self._run()
        self.run.write(
            replace(run, nodes={n: held for n, held in run.nodes.items() if held.incarnation != pod.uid}), self.now_s
        )

    # Looks.

    def _pods(self, chosen: Callable[[PodView], bool]) -> list[PodView]:
        return [pod for _, pod in sorted(self.pods.now.items()) if chosen(pod)]

    def running(self) -> list[PodView]:
        return self._pods(self._runs)

    def _runs(self, pod: PodView) -> bool:
        return pod.phase is PodPhase.RUNNING and self._lives(pod)

    def _lives(self, pod: PodView) -> bool:
        return pod.host not in self.dead

    def _has_room(self, host: HostView) -> bool:
        there = [pod for pod in self.on(host.name) if pod.phase in (PodPhase.PENDING, PodPhase.RUNNING)]
        return bool(host.is_ready) and not host.taints and not host.is_unschedulable and len(there) < self.capacity

    def _run(self) -> RunSnapshot:
        return self.run.now or RunSnapshot(
            state=RunState.STARTING,
            step=0,
            steps=10**6,
            generation=None,
            layout=None,
            members=frozenset(),
            nodes={},
            drains={},
            samples_per_s=None,
            goodput=None,
            recoveries=0,
            checkpoint=None,
            outcome=None,
        )

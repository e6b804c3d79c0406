"""What is done to the operator's jobs, part by part, and what each part came to."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.drain_watch import DrainWatch
from benchmarks.harness.elastic_jobs import (
    NODES_EACH,
    JobSeen,
    Seen,
    create_all,
    is_pod_ready,
    job_seen,
    jobs_path,
    manifest,
    pods_of,
    pods_path,
    seen,
)
from benchmarks.harness.hollow_side import APART, APART_NODES
from benchmarks.harness.operator_cluster import Agents, BenchCluster
from benchmarks.harness.operator_process import OperatorProcess, Reading
from benchmarks.harness.results import median, progress
from harness.kube.api import Object
from harness.kube.pods import until

_NOTICE = "cloud.google.com/impending-node-termination"
_SETTLE_S = 20.0  # after which what a part set off is over
_LOST = 10
_APART = "apart"


async def limit(cluster: BenchCluster, namespace: str, jobs: int) -> dict[str, float]:
    """The same pods made by a client alone, and removed again."""
    made = [pod for job in range(jobs) for pod in pods_of(manifest(f"job-{job:03}", namespace, cluster.endpoint))]
    path = pods_path(namespace)
    async with seen(cluster.api, path, is_pod_ready) as pods:
        begun_s = time.monotonic()
        await create_all(cluster.api, path, made)
        created_s = time.monotonic() - begun_s
        await pods.until(lambda now: sum(now) == len(made), "all pods running")
        running_s = time.monotonic() - begun_s
        await cluster.api.delete(path, gracePeriodSeconds=0)
        await pods.until(lambda now: not list(now), "all pods gone")
    progress(f"limit: {created_s:.1f} s created, {running_s:.1f} s running")
    return {"created_s": round(created_s, 2), "running_s": round(running_s, 2)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """An operator at work in a namespace of its own."""

    cluster: BenchCluster
    namespace: str
    count: int
    operator: OperatorProcess
    agents: Agents
    pods: Seen[tuple[str, bool]]  # its host, and whether it is ready
    jobs: Seen[JobSeen]
    begin_bytes: int

    @staticmethod
    @asynccontextmanager
    async def begun(cluster: BenchCluster, namespace: str, count: int) -> AsyncIterator["Bench"]:
        operator = OperatorProcess(cluster.plane.kubeconfig, cluster.folder)
        try:
            await operator.wait_ready()
            await asyncio.sleep(1.0)
            begin_bytes, _ = operator.memory()
            api = cluster.api
            with cluster.agents(namespace) as agents:
                async with (
                    seen(api, pods_path(namespace), _pod_seen) as pods,
                    seen(api, jobs_path(namespace), job_seen) as jobs,
                ):
                    yield Bench(
                        cluster=cluster,
                        namespace=namespace,
                        count=count,
                        operator=operator,
                        agents=agents,
                        pods=pods,
                        jobs=jobs,
                        begin_bytes=begin_bytes,
                    )
                    # Room for others: without its owners nobody makes pods again.
                    await api.delete(jobs_path(namespace))
                    await jobs.until(lambda now: not list(now), "all jobs gone")
                    await api.delete(pods_path(namespace), gracePeriodSeconds=0)
                    await pods.until(lambda now: not list(now), "all pods gone")
        finally:
            operator.stop()

    async def rollout(self) -> dict[str, Any]:
        """All jobs at once, until every status says that all is as wanted."""
        names = [f"job-{number:03}" for number in range(self.count)]
        made = [manifest(name, self.namespace, self.cluster.endpoint) for name in names]
        before, begun_s = await self.operator.read(), time.monotonic()
        running = asyncio.create_task(self._all_run(begun_s), name="pods run")
        await create_all(self.cluster.api, jobs_path(self.namespace), made)
        accepted_s = time.monotonic() - begun_s
        running_s = await running
        await self._settled(self.count)
        settled_s = time.monotonic() - begun_s
        await asyncio.sleep(_SETTLE_S)
        used = (await self.operator.read()).since(before)
        return {
            "accepted_s": round(accepted_s, 2),
            "running_s": round(running_s, 2),
            "settled_s": round(settled_s, 2),
            **_cost(used, self.count),
        }

    async def steady(self, lasts_s: float) -> dict[str, Any]:
        """Nothing happens to the cluster."""
        await asyncio.sleep(_SETTLE_S)
        before = await self.operator.read()
        await asyncio.sleep(lasts_s)
        used = (await self.operator.read()).since(before)
        return {
            "lasted_s": round(used.at_s, 1),
            "core_share": round(used.core_share, 4),
            "rss_bytes": self.operator.memory()[0],
            "passes_per_s": round(used.passes / used.at_s, 2),
            "calls": {name: round(calls / used.at_s, 2) for name, calls in sorted(used.calls.items())},
        }

    async def lose_pods(self) -> dict[str, Any]:
        """One pod each of some jobs is gone from one moment to the next."""
        names = [f"job-{number:03}-0" for number in range(min(_LOST, self.count))]
        expected = self._disruptions() + len(names)
        before, begun_s = await self.operator.read(), time.monotonic()
        for name in names:
            await self.cluster.api.delete(f"{pods_path(self.namespace)}/{name}", gracePeriodSeconds=0)
        settled_s = await self._recovered(expected, begun_s)
        used = (await self.operator.read()).since(before)
        return {"count": len(names), "settled_s": round(settled_s, 2), **_cost(used, len(names))}

    async def taint_full_host(self) -> dict[str, Any]:
        """That of most pods."""
        ((host, count),) = Counter(host for host, _ in self.pods.now.values()).most_common(1)
        before = await self.operator.read()
        expected, begun_s = self._disruptions() + count, time.monotonic()
        async with self._tainted(host) as drains:
            times_s = await drains.wait(count)
            settled_s = await self._recovered(expected, begun_s)
        used = (await self.operator.read()).since(before)
        return {"count": count, **_spread(times_s), "settled_s": round(settled_s, 2), **_cost(used, count)}

    async def taint_one_job(self, repeats: int) -> dict[str, Any]:
        """Of all others, none is touched. `most_s` is over all drains of all repeats."""
        where = {"nodeSelector": {APART: "yes"}, "tolerations": [{"key": APART, "operator": "Exists"}]}
        await self.cluster.api.create(
            jobs_path(self.namespace), manifest(_APART, self.namespace, self.cluster.endpoint, where)
        )
        await self._settled(self.count + 1)
        times_s: list[float] = []
        for _ in range(repeats):
            hosts = [host for host, _ in self._pods_apart()]
            host = max(APART_NODES, key=hosts.count)
            expected = self._disruptions() + hosts.count(host)
            async with self._tainted(host) as drains:
                times_s += await drains.wait(hosts.count(host))
                await self._recovered(expected, time.monotonic())
        return {"repeats": repeats, "drains": len(times_s), **_spread(times_s)}

    @contextmanager
    def training(self) -> Iterator[None]:
        """Every job commits a step a second meanwhile."""
        self.agents.toggle_steps()
        yield
        self.agents.toggle_steps()

    def memory(self) -> dict[str, int]:
        now, most = self.operator.memory()
        return {"begin_bytes": self.begin_bytes, "end_bytes": now, "most_bytes": most}

    async def _all_run(self, begun_s: float) -> float:
        wanted = NODES_EACH * self.count
        await self.pods.until(lambda now: sum(is_ready for _, is_ready in now) == wanted, "all pods running")
        return time.monotonic() - begun_s

    async def _settled(self, count: int) -> None:
        await self.jobs.until(lambda now: sum(job.is_settled for job in now) == count, "every status says so")

    async def _recovered(self, disruptions: int, begun_s: float) -> float:
        """Seconds until so many were counted, and all is as wanted again."""

        def holds(now: Iterable[JobSeen]) -> bool:
            told = list(now)
            return all(job.is_settled for job in told) and sum(job.disruptions for job in told) >= disruptions

        await self.jobs.until(holds, f"all as wanted after {disruptions} disruptions")
        return time.monotonic() - begun_s

    def _disruptions(self) -> int:
        return sum(job.disruptions for job in self.jobs.now.values())

    def _pods_apart(self) -> list[tuple[str, bool]]:
        return [pod for name, pod in self.pods.now.items() if name.startswith(f"{_APART}-")]

    @asynccontextmanager
    async def _tainted(self, host: str) -> AsyncIterator[DrainWatch]:
        """At the end it is as before."""
        path = f"/api/v1/nodes/{host}"
        taints = (await self.cluster.api.get(path))["spec"].get("taints", [])
        notice = {"key": _NOTICE, "effect": "NoSchedule"}
        async with DrainWatch.of(self.cluster.endpoint, self.namespace) as drains:
            drains.begun_s = time.monotonic()
            await self.cluster.api.patch(path, {"spec": {"taints": [*taints, notice]}})
            yield drains
        await self.cluster.api.patch(path, {"spec": {"taints": taints}})
        # Or the operator would see it anew on the pods that come.
        await until(lambda: self.cluster.api.get(path), lambda node: _NOTICE not in str(node["spec"]), "untainted")


def _pod_seen(pod: Object) -> tuple[str, bool]:
    return pod["spec"].get("nodeName", ""), is_pod_ready(pod)


def _cost(used: Reading, count: int) -> dict[str, Any]:
    return {"core_s": round(used.cpu_s, 2), "passes": round(used.passes / count, 2), "calls": used.calls_each(count)}


def _spread(times_s: list[float]) -> dict[str, float]:
    return {"median_s": round(median(times_s), 4), "most_s": round(max(times_s), 4)}

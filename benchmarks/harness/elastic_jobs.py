"""The jobs of the operator's benchmark, and what the cluster shows of them and of their pods."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from harness.kube.api import Api, Object
from harness.kube.pods import until
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJob
from holdfast_operator.api.v1alpha1.names import AGENT_CONTAINER
from holdfast_operator.api.v1alpha1.parse import parse_job
from holdfast_operator.reconcile.pods import pod_manifest

NODES_EACH = 5
# Requests that are under way at once, when much is made: more are not answered sooner here.
_AT_ONCE = 16
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class JobSeen:
    """What a status says; `is_settled`: that all is as the spec wants it."""

    is_settled: bool
    disruptions: int


class Seen(Generic[T]):
    """What stands in a namespace, by name, reduced to what is asked of it."""

    def __init__(self, api: Api, path: str, see: Callable[[Object], T]) -> None:
        self._api, self._path, self._see = api, path, see
        self.now: dict[str, T] = {}

    async def follow(self) -> None:
        async with aclosing(self._api.watch(self._path)) as changes:
            async for kind, changed in changes:
                name = changed["metadata"]["name"]
                if kind == "DELETED":
                    self.now.pop(name, None)
                else:
                    self.now[name] = self._see(changed)

    async def until(self, holds: Callable[[Iterable[T]], bool], what: str, within_s: float = 300.0) -> None:
        """Looks every 50 ms."""

        async def look() -> dict[str, T]:
            return self.now

        await until(look, lambda now: holds(now.values()), what, within_s)


@asynccontextmanager
async def seen(api: Api, path: str, see: Callable[[Object], T]) -> AsyncIterator[Seen[T]]:
    shown = Seen(api, path, see)
    task = asyncio.create_task(shown.follow(), name=f"what is seen of {path}")
    try:
        yield shown
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def is_pod_ready(pod: Object) -> bool:
    """The kubelet says so, and nobody has deleted it."""
    conditions = pod.get("status", {}).get("conditions", ())
    is_ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return is_ready and "deletionTimestamp" not in pod["metadata"]


def job_seen(job: Object) -> JobSeen:
    status = job.get("status", {})
    nodes = status.get("nodes", {})
    counts = [nodes.get("desired"), nodes.get("ready"), status.get("replicas")]
    is_settled = status.get("phase") == "Running" and counts == [NODES_EACH] * 3 and not nodes.get("draining")
    return JobSeen(is_settled, status.get("disruptions", {}).get("seen", 0))


def jobs_path(namespace: str) -> str:
    return f"/apis/holdfast.dev/v1alpha1/namespaces/{namespace}/elasticjobs"


def pods_path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"


def manifest(name: str, namespace: str, endpoint: str, pods: Object | None = None) -> Object:
    """`pods`: what their spec has besides the container."""
    container = {"name": AGENT_CONTAINER, "image": "holdfast-worker", "resources": {"limits": {"memory": "512Mi"}}}
    spec: dict[str, Any] = {
        "program": {"entry": "gpt.py:program"},
        "steps": 10**6,
        "device": "cpu",
        "nodes": {"min": 1, "max": NODES_EACH},
        "rendezvous": {"endpoints": [endpoint]},
        "state": {"url": "s3://bucket/state"},
        "template": {"spec": {"containers": [container], **(pods or {})}},
    }
    return {
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "ElasticJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def pods_of(made: Object) -> list[Object]:
    """The very pods that the operator makes of a job, which owns none of these."""
    metadata = {
        "uid": "00000000-0000-0000-0000-000000000000",
        "resourceVersion": "1",
        "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    job: ElasticJob = parse_job({**made, "metadata": {**made["metadata"], **metadata}})
    pods = [pod_manifest(job, index) for index in range(NODES_EACH)]
    for pod in pods:
        del pod["metadata"]["ownerReferences"]
    return pods


async def create_all(api: Api, path: str, made: Iterable[Object]) -> None:
    """As fast as one client can."""
    left = iter(made)

    async def create() -> None:
        for one in left:
            await api.create(path, one)

    async with asyncio.TaskGroup() as tasks:
        for number in range(_AT_ONCE):
            tasks.create_task(create(), name=f"creating {number}")

"""A node: registers itself, says that it lives, and has the pods run that are bound to it."""

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import aiohttp

from harness.kube.api import STRATEGIC, Api, ApiError, Object
from harness.kube.network import GATEWAY
from harness.kube.pod_status import now_text

_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_CAPACITY = {"cpu": "16", "memory": "64Gi", "ephemeral-storage": "100Gi", "pods": "110"}


class Worker(Protocol):
    """Runs one pod."""

    def update(self, pod: Object) -> None: ...

    async def run(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """`heartbeat_s`: how often it renews its lease."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[Mapping[str, str]] = ()
    capacity: Mapping[str, str] = field(default_factory=lambda: _CAPACITY)
    heartbeat_s: float = 1.0


class Node:
    """`port`: where the API server finds its logs."""

    def __init__(self, api: Api, spec: NodeSpec, worker: Callable[[Object], Worker], port: int) -> None:
        self.spec = spec
        self.workers: dict[str, Worker] = {}
        self.path = f"/api/v1/nodes/{spec.name}"
        self._api, self._make, self._port = api, worker, port
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Back when it is registered and Ready."""
        await self._register()
        self._tasks = [
            asyncio.create_task(self._beat(), name=f"heartbeat of {self.spec.name}"),
            asyncio.create_task(self._follow_pods(), name=f"pods of {self.spec.name}"),
        ]

    async def hang(self) -> None:
        """From now on the API server hears nothing of it, nor it of the API server; what runs, runs on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def stop(self) -> None:
        """Everything of it ends at once, and nobody is told."""
        await self.hang()
        for job in self._jobs.values():
            _cancel_once(job)
        await asyncio.gather(*self._jobs.values(), return_exceptions=True)

    async def _register(self) -> None:
        labels = {"kubernetes.io/hostname": self.spec.name, "kubernetes.io/os": "linux", **self.spec.labels}
        made = {
            "kind": "Node",
            "metadata": {"name": self.spec.name, "labels": labels},
            "spec": {"taints": [dict(taint) for taint in self.spec.taints]},
        }
        with suppress(ApiError):  # it is there if this node was away
            await self._api.create("/api/v1/nodes", made)
        held = now_text()
        status = {
            "capacity": dict(self.spec.capacity),
            "allocatable": dict(self.spec.capacity),
            "addresses": [{"type": "InternalIP", "address": GATEWAY}, {"type": "Hostname", "address": self.spec.name}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._port}},
            "nodeInfo": _info(self.spec.name),
            "conditions": [
                _condition(kind, kind == "Ready", held)
                for kind in ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
            ],
        }
        await self._api.patch(f"{self.path}/status", {"status": status}, STRATEGIC)

    async def _beat(self) -> None:
        """A node that was declared lost, and is heard again, says anew that it is Ready."""
        lease = f"{_LEASES}/{self.spec.name}"
        await self._renew(lease, create=True)
        for beat in itertools.count(1):
            await asyncio.sleep(self.spec.heartbeat_s)
            with suppress(ApiError, aiohttp.ClientError, TimeoutError):
                await self._renew(lease)
                if beat % 10 == 0:
                    await self._say_ready()

    async def _renew(self, lease: str, *, create: bool = False) -> None:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        spec = {"holderIdentity": self.spec.name, "leaseDurationSeconds": 40, "renewTime": now}
        if create:
            with suppress(ApiError):
                await self._api.create(_LEASES, {"metadata": {"name": self.spec.name}, "spec": spec})
                return
        await self._api.patch(lease, {"spec": spec})

    async def _say_ready(self) -> None:
        beat = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now_text()}
        await self._api.patch(f"{self.path}/status", {"status": {"conditions": [beat]}}, STRATEGIC)

    async def _follow_pods(self) -> None:
        async for kind, pod in self._api.watch("/api/v1/pods", fieldSelector=f"spec.nodeName={self.spec.name}"):
            uid = pod["metadata"]["uid"]
            if kind == "DELETED":
                if uid in self._jobs:
                    _cancel_once(self._jobs[uid])
            elif uid in self.workers:
                self.workers[uid].update(pod)
            else:
                self._run(uid, pod)

    def _run(self, uid: str, pod: Object) -> None:
        worker = self.workers[uid] = self._make(pod)
        worker.update(pod)
        job = self._jobs[uid] = asyncio.create_task(worker.run(), name=f"pod {pod['metadata']['name']}")
        job.add_done_callback(lambda _: self._forget(uid))

    def _forget(self, uid: str) -> None:
        job = self._jobs.pop(uid)
        self.workers.pop(uid)
        if not job.cancelled() and job.exception() is not None:
            # The task's boundary: a bug of this kubelet must be seen.
            asyncio.get_running_loop().call_exception_handler({"message": job.get_name(), "exception": job.exception()})


def _cancel_once(job: "asyncio.Task[None]") -> None:
    """Cancelled again, it would leave behind what it is about to end."""
    if not job.cancelling():
        job.cancel()


def _condition(kind: str, is_so: bool, when: str) -> Object:
    return {
        "type": kind,
        "status": "True" if is_so else "False",
        "reason": "KubeletReady" if kind == "Ready" else "KubeletHasSufficient",
        "lastHeartbeatTime": when,
        "lastTransitionTime": when,
    }


def _info(name: str) -> Object:
    fields = ("machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "containerRuntimeVersion")
    return {
        **dict.fromkeys(fields, name),
        "kubeletVersion": "v1.36.0",
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": "amd64",
    }

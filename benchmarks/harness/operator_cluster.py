"""What the operator's benchmark runs on: a control plane, an etcd for rendezvous, hollow nodes, pretended agents."""

import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.harness.elastic_jobs import NODES_EACH
from benchmarks.harness.hollow_side import APART_NODES, access_words
from benchmarks.harness.processes import REPOSITORY, Child, signal_process
from harness.etcd.server import EtcdServer, running_server
from harness.kube.api import APPLY, Api
from harness.kube.control_plane import ControlPlane, running_control_plane
from harness.kube.pods import until

# Longer than a machine that is busy makes a node wait for its heartbeat.
_GRACE_S = 40
_PATHS = {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchCluster:
    """`api`: as an admin."""

    plane: ControlPlane
    etcd: EtcdServer
    api: Api
    folder: Path

    @property
    def endpoint(self) -> str:
        """Of the rendezvous."""
        host, port = self.etcd.endpoint
        return f"{host}:{port}"

    async def make_namespace(self, name: str) -> None:
        """Pods can be made in it."""
        await self.api.create("/api/v1/namespaces", {"metadata": {"name": name}})
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        await until(lambda: self.api.find(account), lambda found: found is not None, "given its service account")

    @contextmanager
    def agents(self, namespace: str) -> Iterator["Agents"]:
        words = [*access_words(self.plane.admin), "--namespace", namespace, "--nodes", str(NODES_EACH)]
        with Child(_module("pretended_agents", *words), self.folder / "agents.log", _PATHS) as child:
            yield Agents(child)


class Agents:
    """Of all jobs of a namespace."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def toggle_steps(self) -> None:
        """From now on each job commits a step a second, or no more."""
        self._child.check()
        signal_process(self._child.pid, signal.SIGUSR1)


@asynccontextmanager
async def running_cluster(folder: Path, nodes: int) -> AsyncIterator[BenchCluster]:
    """Raises: pytest.skip.Exception: a program is missing; it says which, and where it was looked for."""
    folders = [folder / name for name in ("control-plane", "etcd")]
    for one in folders:
        one.mkdir()
    with running_control_plane(folders[0], grace_s=_GRACE_S) as plane, running_server(folders[1]) as etcd:
        words = [*access_words(plane.admin), "--nodes", str(nodes)]
        with Child(_module("hollow_side", *words), folder / "nodes.log", _PATHS) as child:
            async with Api(plane.admin) as api:
                await _define(api)
                await _wait_nodes(api, child, nodes + len(APART_NODES))
                yield BenchCluster(plane=plane, etcd=etcd, api=api, folder=folder)
                child.check()


def _module(name: str, *words: str) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.harness.{name}", *words]


async def _define(api: Api) -> None:
    """The kind is there, as the chart brings it."""
    definition = yaml.safe_load((REPOSITORY / "charts/holdfast/files/elasticjobs.holdfast.dev.yaml").read_text())
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{definition['metadata']['name']}"
    await api.patch(path, definition, APPLY, fieldManager="bench", force="true")
    await until(lambda: api.find("/apis/holdfast.dev/v1alpha1/elasticjobs"), lambda found: found is not None, "served")


async def _wait_nodes(api: Api, child: Child, count: int) -> None:
    """Ready, and free of the taints of those that are not."""

    async def ready() -> int:
        child.check()
        nodes = await api.items("/api/v1/nodes")
        waiting = [
            node
            for node in nodes
            if any(t["key"].startswith("node.kubernetes.io/") for t in node["spec"].get("taints", ()))
        ]
        return len(nodes) - len(waiting)

    await until(ready, lambda found: found == count, f"{count} nodes")

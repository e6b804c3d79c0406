"""The test kubelet: any number of nodes in this process, whose pods are processes of this machine.

It honours commands and arguments, environment with all its references, volumes (secret, configMap, emptyDir,
downwardAPI, projected, hostPath), users and groups, read-only roots, init containers, restart policy, termination
grace, hooks, probes, termination messages, `kubectl logs`, and deletion, and writes a terminal phase before the last
delete. It knows no resource limits, no `kubectl exec`, no services; volumes are filled once. Much of what it does not
know it refuses in the pod's status.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from harness.kube.api import Api, Object
from harness.kube.containers import Image
from harness.kube.control_plane import ControlPlane
from harness.kube.network import GATEWAY, PodNetwork
from harness.kube.node import Node, NodeSpec
from harness.kube.pod_worker import Machine, PodWorker

_POLL_S = 0.1


class Kubelet:
    def __init__(self, machine: Machine, port: int) -> None:
        self.nodes: dict[str, Node] = {}
        self._machine, self._port = machine, port

    async def add(self, name: str, **fields: Any) -> Node:
        """`fields` as in NodeSpec."""
        spec = NodeSpec(name=name, **fields)
        node = Node(self._machine.api, spec, lambda pod: PodWorker(self._machine, pod), self._port)
        self.nodes[name] = node
        await node.start()
        return node

    async def lose(self, name: str) -> None:
        """The machine is gone without a word: its wires first, then its processes. Its Node object stays."""
        node = self.nodes[name]
        for worker in node.workers.values():
            if isinstance(worker, PodWorker) and worker.holder is not None:
                worker.holder.cut()
        await node.stop()

    async def remove(self, name: str) -> None:
        """As a cloud does: the machine is gone, then its Node object."""
        await self.lose(name)
        await self._machine.api.delete(self.nodes.pop(name).path)

    def worker(self, namespace: str, pod: str) -> PodWorker | None:
        for node in self.nodes.values():
            for worker in node.workers.values():
                if isinstance(worker, PodWorker) and _names(worker.pod) == (namespace, pod):
                    return worker
        return None

    def last_words(self) -> str:
        """Of every container of every pod, for a test that failed."""
        told = []
        for node in self.nodes.values():
            for worker in node.workers.values():
                if isinstance(worker, PodWorker):
                    told += [f"== {node.spec.name}: {name}\n{text}" for name, text in worker.last_words()]
        return "\n".join(told)

    async def stop(self) -> None:
        for node in self.nodes.values():
            await node.stop()
        for node in self.nodes.values():
            await self._machine.api.delete(node.path)


class _Logs:
    """What `kubectl logs` asks of a node, through the API server."""

    def __init__(self) -> None:
        self.kubelet: Kubelet | None = None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        assert self.kubelet is not None
        worker = self.kubelet.worker(request.match_info["namespace"], request.match_info["pod"])
        if worker is None:
            raise web.HTTPNotFound(text="no such pod on this node")
        container = worker.find(request.match_info["container"])
        path = container.log(previous=request.query.get("previous") == "true")
        if not path.exists():
            raise web.HTTPBadRequest(text=f"container {container.spec['name']} has not started")
        reply = web.StreamResponse(headers={"Content-Type": "text/plain"})
        reply.force_close()  # so that no connection is left to say farewell on when the test ends
        await reply.prepare(request)
        with path.open("rb") as log:
            if "tailLines" in request.query:
                lines = log.read().splitlines(keepends=True)
                kept = lines[-int(request.query["tailLines"]) :] if int(request.query["tailLines"]) else []
                await reply.write(b"".join(kept))
            while True:
                is_over = "running" not in container.state or request.query.get("follow") != "true"
                await reply.write(log.read())
                if is_over:
                    return reply
                await asyncio.sleep(_POLL_S)


@asynccontextmanager
async def running_kubelet(
    plane: ControlPlane, network: PodNetwork, folder: Path, images: Mapping[str, Image]
) -> AsyncIterator[Kubelet]:
    """To be entered at the network's gateway. At the end its nodes, and what runs on them, are gone."""
    logs = _Logs()
    application = web.Application()
    application.router.add_get("/containerLogs/{namespace}/{pod}/{container}", logs.answer)
    # Whoever follows a log does not end by himself.
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=plane.keys.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(*plane.keys.server("kubelet", GATEWAY))
    site = web.TCPSite(runner, GATEWAY, 0, ssl_context=context)
    await site.start()
    async with Api(plane.admin) as api:
        machine = Machine(api=api, folder=folder, network=network, images=images)
        logs.kubelet = Kubelet(machine, runner.addresses[0][1])
        try:
            yield logs.kubelet
        finally:
            await logs.kubelet.stop()
            await runner.cleanup()


def _names(pod: Object) -> tuple[str, str]:
    return pod["metadata"]["namespace"], pod["metadata"]["name"]

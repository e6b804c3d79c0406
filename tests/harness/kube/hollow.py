"""Nodes on which everything runs and is ready, in words: for more pods than a machine holds."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

from harness.kube.api import STRATEGIC, Api, ApiError, Object
from harness.kube.network import GATEWAY
from harness.kube.node import Node, NodeSpec
from harness.kube.pod_status import PodStatus, now_text


@asynccontextmanager
async def hollow_nodes(api: Api, names: Iterable[str], **fields: Any) -> AsyncIterator[list[Node]]:
    """`fields` as in NodeSpec. At the end they are gone, and their pods are left to the control plane."""
    nodes = [Node(api, NodeSpec(name=name, **fields), lambda pod: HollowWorker(api, pod), port=0) for name in names]
    try:
        for node in nodes:
            await node.start()
        yield nodes
    finally:
        for node in nodes:
            await node.stop()
            await api.delete(node.path)


class HollowWorker:
    """Says of a pod all that a kubelet would say, and runs nothing."""

    _addresses = itertools.count(2)

    def __init__(self, api: Api, pod: Object) -> None:
        self._api, self._pod, self._deleted = api, pod, asyncio.Event()
        metadata, number = pod["metadata"], next(self._addresses)
        self._path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        self._address = f"10.99.{number // 250 % 250}.{number % 250 + 1}"

    def update(self, pod: Object) -> None:
        if "deletionTimestamp" in pod["metadata"]:
            self._deleted.set()

    async def run(self) -> None:
        status = PodStatus(GATEWAY)
        await self._tell(status, "Running", {"running": {"startedAt": now_text()}})
        await self._deleted.wait()
        ended = {"exitCode": 0, "reason": "Completed", "startedAt": now_text(), "finishedAt": now_text()}
        await self._tell(status, "Succeeded", {"terminated": ended})
        await self._api.delete(self._path, gracePeriodSeconds=0, preconditions={"uid": self._pod["metadata"]["uid"]})

    async def _tell(self, status: PodStatus, phase: str, state: Object) -> None:
        containers = [
            {
                "name": one["name"],
                "image": one["image"],
                "imageID": "",
                "ready": phase == "Running",
                "started": phase == "Running",
                "restartCount": 0,
                "state": state,
            }
            for one in self._pod["spec"]["containers"]
        ]
        built = status.build(
            phase=phase, address=self._address, is_initialized=True, containers=containers, init_containers=[]
        )
        with suppress(ApiError):  # deleted by force meanwhile
            await self._api.patch(f"{self._path}/status", {"status": built}, STRATEGIC)

"""What the API server cannot know of a manifest, a condition of the job tells."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from harness.kube.api import Api, Object
from harness.kube.control_plane import ControlPlane
from harness.kube.elastic import WORKER_IMAGE, Cluster
from harness.kube.kubelet import Kubelet
from harness.kube.managing import running_manager
from harness.kube.pods import until
from kube.corpus import BASE, CORPUS, Wrong, merged

pytestmark = [pytest.mark.kube, pytest.mark.slow]
TOLD = [wrong for wrong in CORPUS if wrong.by == "condition"]


@pytest.fixture
async def looked_after(control_plane: ControlPlane, cluster: Cluster) -> AsyncIterator[None]:
    async with running_manager(control_plane, cluster.namespace):
        yield


async def test_what_is_wrong_with_a_manifest_is_told_by_a_condition(
    cluster: Cluster, api: Api, kubelet: Kubelet, looked_after: None
) -> None:
    await kubelet.add("n1")
    names = {f"wrong-{number}": wrong for number, wrong in enumerate(TOLD)}
    for name, wrong in names.items():
        await api.create(cluster.jobs, manifest(cluster, name, wrong))

    async def untold() -> dict[str, list[str]]:
        """By what is wrong: what is told instead. Fields are named as whoever refused them names them: in the pod."""
        found = {job["metadata"]["name"]: messages(job) for job in await api.items(cluster.jobs)}
        return {
            wrong.name: found[name]
            for name, wrong in names.items()
            if not any(wrong.words.lower() in text.lower() for text in found[name])
        }

    await until(untold, lambda left: not left, "told of each")


def manifest(cluster: Cluster, name: str, wrong: Wrong) -> Object:
    """On the test's own etcd and image, unless it is these that are wrong."""
    container: dict[str, Any] = {"name": "holdfast", "image": WORKER_IMAGE}
    here = {
        "metadata": {"name": name, "namespace": cluster.namespace},
        "spec": {
            "rendezvous": {"endpoints": [cluster.endpoint]},
            "template": {"spec": {"containers": [container]}},
            "nodes": {"min": 1, "max": 1, "desired": 1},
        },
    }
    made = merged(merged(BASE, here), wrong.patch)
    made["metadata"]["name"] = name
    return made


def messages(job: Object) -> list[str]:
    return [f"{one['reason']}: {one['message']}" for one in job.get("status", {}).get("conditions", ())]

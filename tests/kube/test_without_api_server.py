"""A job whose operator is killed and whose API server goes away does not notice; the cluster converges afterwards."""

import asyncio
from pathlib import Path

import pytest

from harness.kube.control_plane import ControlPlane
from harness.kube.elastic import ONE_POD, STEPS, Cluster
from harness.kube.installation import Installation
from harness.kube.kubelet import Kubelet
from harness.kube.pods import uid_of, until

pytestmark = [pytest.mark.kube, pytest.mark.slow, pytest.mark.chaos]
AWAY_S = 30.0


@pytest.mark.timeout(400)
async def test_a_job_trains_on_without_its_operator_and_without_the_api_server(
    control_plane: ControlPlane,
    cluster: Cluster,
    operator: Installation,
    kubelet: Kubelet,
    undisturbed_weights: str,
    tmp_path: Path,
) -> None:
    await operator.install(replicas=2)
    for name in ("n1", "n2", "n3"):
        await kubelet.add(name, capacity=ONE_POD)
    nodes = {"min": 1, "max": 3}
    await cluster.api.create(cluster.jobs, cluster.manifest("toy", steps=STEPS, pause_s=0.08, nodes=nodes))
    job = cluster.job("toy")
    await job.wait_members(3)
    pods = await job.pods()

    # Both replicas, and then the API server: nobody looks after the job, and a node is lost besides.
    for pod in await operator.pods():
        worker = kubelet.worker(cluster.namespace, pod["metadata"]["name"])
        assert worker is not None
        worker.find(None).crash()
    lost = await job.pod_on("n1")
    with control_plane.without_api():
        await kubelet.lose("n1")
        left = await job.wait_members(2, within_s=AWAY_S)
        await asyncio.sleep(AWAY_S)  # it is what this is about: so long it is away
        trained = await job.running()
        assert trained["step"] > left["step"]
        assert trained["generation"]["number"] == left["generation"]["number"]

    replaced = await until(job.pods, lambda found: bool(found.keys() - pods.keys()), "given another pod", 60.0)
    assert len(replaced.keys() - pods.keys()) == 1
    kept = pods.keys() - {lost}
    assert {name: uid_of(replaced[name]) for name in kept} == {name: uid_of(pods[name]) for name in kept}
    await job.wait_condition("Complete")
    assert await job.weights(tmp_path / "weights") == undisturbed_weights

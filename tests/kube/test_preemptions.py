"""`kubectl apply`, and it trains through preemptions: operator, agents, etcd and control plane are real."""

import time
from pathlib import Path

import pytest

from harness.kube.elastic import ONE_POD, STEPS, Cluster
from harness.kube.installation import Installation
from harness.kube.kubelet import Kubelet
from harness.kube.tools import Tool

pytestmark = [pytest.mark.kube, pytest.mark.slow, pytest.mark.chaos]


async def test_a_job_outlives_notice_deletion_and_silent_loss_and_new_nodes_are_used(
    cluster: Cluster, operator: Installation, kubelet: Kubelet, kubectl: Tool, undisturbed_weights: str, tmp_path: Path
) -> None:
    await operator.install()
    for name in ("n1", "n2", "n3", "n4"):
        await kubelet.add(name, capacity=ONE_POD)
    manifest = cluster.manifest("toy", steps=STEPS, pause_s=0.05)
    await cluster.api.create(cluster.jobs, manifest)
    job = cluster.job("toy")
    await job.wait_members(4)

    noticed = await job.pod_on("n1")
    tainted_s = time.monotonic()
    await kubectl("taint", "node", "n1", "cloud.google.com/impending-node-termination=:NoSchedule")
    await job.wait_run(lambda told: any(one["node"] == noticed for one in told["draining"]), "draining")
    drained_s = time.monotonic() - tainted_s
    await job.wait_members(3)

    await kubelet.remove("n2")
    await job.wait_members(2)
    await kubelet.lose("n3")
    await job.wait_members(1)
    for name in ("n5", "n6"):
        await kubelet.add(name, capacity=ONE_POD)
    await job.wait_members(3)

    await job.wait_condition("Complete")
    assert await job.weights(tmp_path / "weights") == undisturbed_weights
    status = (await job.get())["status"]
    assert (status["phase"], status["progress"]) == ("Complete", f"{STEPS}/{STEPS}")
    assert status["disruptions"] == {"seen": 3, "survived": 3}
    assert status["recoveries"] == 2
    assert "Complete" in await kubectl("get", "ej", "toy")
    assert "n1" in await kubectl("describe", "ej", "toy")
    assert drained_s < 1.0

"""The operator is upgraded and taken away while a job trains, which does not notice."""

import pytest

from harness.kube.elastic import ONE_POD, WORKER_IMAGE, Cluster, Job
from harness.kube.installation import CHART, Installation
from harness.kube.kubelet import Kubelet
from harness.kube.pods import uid_of, until
from harness.kube.tools import Tool

pytestmark = [pytest.mark.kube, pytest.mark.slow]


async def test_upgrading_and_uninstalling_the_operator_leaves_crd_jobs_and_pods_as_they_are(
    cluster: Cluster, operator: Installation, kubelet: Kubelet, helm: Tool, kubectl: Tool
) -> None:
    await operator.install()
    await kubelet.add("n1", capacity=ONE_POD)
    nodes = {"min": 1, "max": 2, "desired": 1}
    await cluster.api.create(cluster.jobs, cluster.manifest("toy", steps=100_000, pause_s=0.1, nodes=nodes))
    job = cluster.job("toy")
    await job.wait_members(1)
    ((name, pod),) = (await job.pods()).items()
    before = {uid_of(one) for one in await operator.pods()}

    # The release becomes the CRD's owner with this; it was there before.
    upgrade = ("--reset-then-reuse-values", "--set=operator.progressSeconds=2,crds.install=true", "--take-ownership")
    await helm("upgrade", operator.name, str(CHART), *upgrade)
    await until(operator.pods, lambda pods: bool(pods) and not before & set(map(uid_of, pods)), "replaced")
    await kubelet.add("n2", capacity=ONE_POD)
    await kubectl("scale", "elasticjob", "toy", "--replicas=2")
    await job.wait_members(2)  # the new operator looks after it
    assert uid_of((await job.pods())[name]) == uid_of(pod)

    pods = {name: uid_of(pod) for name, pod in (await job.pods()).items()}
    await helm("uninstall", operator.name, "--wait")
    await until(operator.pods, lambda found: found == [], "gone")
    assert "elasticjobs.holdfast.dev" in await kubectl("get", "crd", "--output=name")
    assert {name: uid_of(pod) for name, pod in (await job.pods()).items()} == pods
    await trains_on(job)


async def test_helm_test_trains_a_job_and_leaves_nothing_of_it(
    cluster: Cluster, operator: Installation, kubelet: Kubelet, helm: Tool, kubectl: Tool
) -> None:
    await operator.install(test={"image": WORKER_IMAGE, "endpoints": [cluster.endpoint], "nodes": 2})
    for name in ("n1", "n2"):
        await kubelet.add(name, capacity=ONE_POD)
    told = await helm("test", operator.name, "--logs", "--timeout=300s", timeout_s=330.0)
    assert "Phase:          Succeeded" in told
    assert "the trial completed" in told
    assert not await kubectl("get", "elasticjobs", "--output=name")


async def trains_on(job: Job) -> None:
    """In the generation that it was in."""
    before = await job.wait_members(2)
    after = await job.wait_step(before["step"] + 3)
    assert after["generation"]["number"] == before["generation"]["number"]

"""Who may start pods beside a job's, and so reach its ports, does not get its state."""

from typing import Any

import pytest

from harness.kube.api import Api
from harness.kube.elastic import ONE_POD, WORKER_IMAGE, Cluster, Job
from harness.kube.installation import Installation
from harness.kube.kubelet import Kubelet
from harness.kube.pods import pod_with, until, wait_for_pod
from harness.kube.tools import Tool
from holdfast_operator.api.v1alpha1 import names

pytestmark = [pytest.mark.kube, pytest.mark.slow]
# Asks an agent as those of its job do, with the secret that is mounted; says what it got.
ASK = """
import asyncio, sys
from pathlib import Path
import aiohttp
from holdfast.agent.credentials import Credentials

async def main(job, address, *targets):
    credentials = Credentials(Path("/secret/secret").read_bytes().strip(), job)
    async with aiohttp.ClientSession() as session:
        for target in targets:
            headers = {"Authorization": credentials.sign("GET", target).authorization}
            async with session.get(f"http://{address}{target}", headers=headers) as response:
                print(response.status)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_pod_with_another_jobs_secret_is_refused_by_a_jobs_agents(
    cluster: Cluster, operator: Installation, kubelet: Kubelet, kubectl: Tool, api: Api
) -> None:
    await operator.install()
    await kubelet.add("n1", capacity={**ONE_POD, "cpu": "1"})
    for name in ("toy", "other"):  # there is no room for the other
        nodes = {"min": 1, "max": 1}
        await api.create(cluster.jobs, cluster.manifest(name, steps=100_000, pause_s=0.1, nodes=nodes))
        await until(cluster.job(name).pods, lambda pods: len(pods) == 1, "given its pod, and its secret before")
        if name == "toy":
            await cluster.job(name).wait_members(1)

    # With the right one it is answered, so that it is the secret that keeps the other out.
    assert await answers(cluster, kubectl, "toy") == ["200", "200"]
    assert await answers(cluster, kubectl, "other") == ["401", "401"]
    pods = await cluster.job("toy").pods()
    assert not any(pod["spec"]["automountServiceAccountToken"] for pod in pods.values())


async def answers(cluster: Cluster, kubectl: Tool, secret_of: str) -> list[str]:
    """What an agent of the job toy answers a pod that holds the secret of the job `secret_of`."""
    toy: Job = cluster.job("toy")
    ((_, pod),) = (await toy.pods()).items()
    job = names.job_id("toy", (await toy.get())["metadata"]["uid"])
    container: dict[str, Any] = {
        "image": WORKER_IMAGE,
        "command": ["python", "-c", ASK, job, f"{pod['status']['podIP']}:{names.AGENT_PORT}", "/alive", "/status"],
        "volumeMounts": [{"name": "secret", "mountPath": "/secret"}],
    }
    name = f"asks-with-{secret_of}"
    made = pod_with(
        name,
        container=container,
        restartPolicy="Never",
        securityContext={"fsGroup": 65532},
        volumes=[{"name": "secret", "secret": {"secretName": names.secret_name(secret_of)}}],
    )
    await cluster.api.create(f"/api/v1/namespaces/{cluster.namespace}/pods", made)

    def is_over(pod: dict[str, Any]) -> bool:
        return pod["status"].get("phase") in ("Succeeded", "Failed")

    await wait_for_pod(cluster.api, cluster.namespace, name, is_over, "ended")
    return (await kubectl("logs", name)).split()

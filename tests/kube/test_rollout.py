"""An operator that dies, or is not alone, leaves no orphan and no duplicate; pods are hollow, all else is real."""

from collections.abc import AsyncIterator

import pytest

from harness.kube.api import Api
from harness.kube.control_plane import ControlPlane
from harness.kube.elastic import Cluster, Job
from harness.kube.hollow import hollow_nodes
from harness.kube.managing import running_manager
from harness.kube.pods import uid_of, until
from holdfast_operator.api.v1alpha1.names import LABEL_JOB, config_name, secret_name
from holdfast_operator.handlers.errors import LeadershipLostError
from holdfast_operator.handlers.executing import Executor, Pass
from holdfast_operator.reconcile.actions import Action

pytestmark = [pytest.mark.kube, pytest.mark.slow]


@pytest.fixture
async def job(cluster: Cluster, api: Api) -> AsyncIterator[Job]:
    async with hollow_nodes(api, ("h1", "h2", "h3")):
        nodes = {"min": 1, "max": 6, "desired": 3}
        await api.create(cluster.jobs, cluster.manifest("toy", steps=10, nodes=nodes))
        yield cluster.job("toy")


async def test_an_operator_that_dies_after_each_of_its_actions_gets_there_all_the_same(
    control_plane: ControlPlane, cluster: Cluster, api: Api, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths: dict[str, str] = {}
    do = Executor._do

    async def do_and_die(self: Executor, action: Action, doing: Pass) -> str:
        result = await do(self, action, doing)
        # What a new life does again, as it cannot know that it was done, it does not die of again.
        if result != "nothing" and repr(action) not in deaths:
            deaths[repr(action)] = type(action).__name__
            raise LeadershipLostError("killed")
        return result

    monkeypatch.setattr(Executor, "_do", do_and_die)
    async with running_manager(control_plane, cluster.namespace):
        await through_a_rollout(cluster, api, job)
    # Not TellEvent: an event follows the status that it is about, and is lost with the life that wrote that.
    assert {"CreateSecret", "ApplyConfig", "WriteStatus", "CreatePod", "DeletePod"} <= set(deaths.values())


async def test_two_operators_that_both_believe_to_lead_do_no_harm(
    control_plane: ControlPlane, cluster: Cluster, api: Api, job: Job
) -> None:
    one, other = (running_manager(control_plane, cluster.namespace) for _ in range(2))
    async with one, other:
        await through_a_rollout(cluster, api, job)


async def through_a_rollout(cluster: Cluster, api: Api, job: Job) -> None:
    """Made, grown, one pod taken away, shrunk; in between all is as it should be."""
    await settled(cluster, api, job, 3)
    for desired in (5, 2):
        await api.patch(f"{cluster.jobs}/{job.name}", {"spec": {"nodes": {"desired": desired}}})
        await settled(cluster, api, job, desired)
        await take_away_a_pod(cluster, api, job)
        await settled(cluster, api, job, desired)


async def take_away_a_pod(cluster: Cluster, api: Api, job: Job) -> None:
    pods = await job.pods()
    gone = pods[min(pods)]["metadata"]
    await api.delete(f"/api/v1/namespaces/{cluster.namespace}/pods/{gone['name']}")
    await until(job.pods, lambda found: gone["uid"] not in map(uid_of, found.values()), "deleted")


async def settled(cluster: Cluster, api: Api, job: Job, desired: int) -> None:
    """So many pods run, all of them the job's own, and its status says so."""

    async def look() -> tuple[list[str], int | None]:
        pods = [pod for pod in (await job.pods()).values() if "deletionTimestamp" not in pod["metadata"]]
        return [pod["status"]["phase"] for pod in pods], (await job.get()).get("status", {}).get("replicas")

    await until(look, lambda seen: seen == (["Running"] * desired, desired), f"settled at {desired} pods")
    found, pods = await job.get(), await job.pods()
    owners = {owner["uid"] for pod in pods.values() for owner in pod["metadata"]["ownerReferences"]}
    assert owners == {found["metadata"]["uid"]}
    for kind, name in (("secrets", secret_name(job.name)), ("configmaps", config_name(job.name))):
        path = f"/api/v1/namespaces/{cluster.namespace}/{kind}"
        labelled = await api.items(path, labelSelector=f"{LABEL_JOB}={job.name}")
        assert [one["metadata"]["name"] for one in labelled] == [name]

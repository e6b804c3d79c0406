"""The client against a real API server: each answer is the error that it is."""

import asyncio
import dataclasses
from pathlib import Path

import pytest
from kubernetes.aio.config import incluster_config

from harness.kube.control_plane import ControlPlane
from holdfast.errors import UserError
from holdfast_operator.handlers.client import CONFIG_MAPS, PODS, Cluster, Resource
from holdfast_operator.handlers.errors import (
    ClusterUnavailableError,
    ExistsError,
    NotFoundError,
    RefusedError,
    StaleError,
)
from holdfast_operator.handlers.metrics import OperatorMetrics
from integration.operator.objects import pod

pytestmark = [pytest.mark.kube, pytest.mark.slow]


async def test_a_pod_is_made_once(cluster: Cluster, namespace: str) -> None:
    await cluster.create(PODS, namespace, pod("job", 0))
    with pytest.raises(ExistsError, match="job-0"):
        await cluster.create(PODS, namespace, pod("job", 0))


async def test_only_the_pod_that_was_meant_is_deleted(cluster: Cluster, namespace: str) -> None:
    made = await cluster.create(PODS, namespace, pod("job", 0))
    with pytest.raises(StaleError):
        await cluster.delete(PODS, namespace, "job-0", uid="another", grace_s=0)
    assert await cluster.get(PODS, namespace, "job-0")
    await cluster.delete(PODS, namespace, "job-0", uid=made["metadata"]["uid"], grace_s=0)
    with pytest.raises(NotFoundError):
        await cluster.delete(PODS, namespace, "job-0", uid=made["metadata"]["uid"])


async def test_a_patch_of_an_earlier_version_changes_nothing(cluster: Cluster, namespace: str) -> None:
    made = await cluster.create(CONFIG_MAPS, namespace, {"metadata": {"name": "it"}, "data": {"a": "1"}})
    version = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}}
    await cluster.merge(CONFIG_MAPS, namespace, "it", {**version, "data": {"a": "2"}})
    with pytest.raises(StaleError):
        await cluster.merge(CONFIG_MAPS, namespace, "it", {**version, "data": {"a": "3"}})
    assert (await cluster.get(CONFIG_MAPS, namespace, "it"))["data"] == {"a": "2"}


async def test_what_is_applied_again_is_not_written_again(cluster: Cluster, namespace: str) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "it"}, "data": {"a": "1"}}
    first, second = [await cluster.apply(CONFIG_MAPS, namespace, "it", body) for _ in range(2)]
    assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]


async def test_what_is_not_valid_is_refused_with_the_field(cluster: Cluster, namespace: str) -> None:
    wrong = pod("job", 0)
    wrong["spec"]["containers"][0] = {"name": "Not A Label", "image": "holdfast"}
    with pytest.raises(RefusedError, match=r"spec\.containers\[0\]\.name"):
        await cluster.create(PODS, namespace, wrong)


async def test_what_a_user_may_not_do_is_refused(plane: ControlPlane, namespace: str) -> None:
    kubeconfig = plane.access("nobody").kubeconfig(plane.folder / "nobody.kubeconfig")
    cluster = await Cluster.connect(kubeconfig, OperatorMetrics())
    try:
        with pytest.raises(RefusedError, match='"nobody" cannot create resource "pods"'):
            await cluster.create(PODS, namespace, pod("job", 0))
    finally:
        await cluster.close()


async def test_an_api_server_that_is_away_is_no_refusal(
    plane: ControlPlane, cluster: Cluster, namespace: str, metrics: OperatorMetrics
) -> None:
    await asyncio.to_thread(plane.stop_api)
    try:
        with pytest.raises(ClusterUnavailableError):
            await cluster.get(PODS, namespace, "job-0")
    finally:
        await asyncio.to_thread(plane.start_api)
    assert b'api_calls_total{code="none",resource="pods",verb="get"} 1.0' in metrics.text()


async def test_a_kubeconfig_that_cannot_be_used_is_named(plane: ControlPlane) -> None:
    missing = plane.folder / "nowhere.kubeconfig"
    with pytest.raises(UserError, match=r"--kubeconfig .*nowhere\.kubeconfig: cannot be used"):
        await Cluster.connect(missing, OperatorMetrics())


async def test_in_a_pod_its_account_is_used(
    plane: ControlPlane, cluster: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    given = await cluster.create(Resource("", "v1", "serviceaccounts/default/token"), namespace, asked)
    token = tmp_path / "token"
    token.write_text(given["status"]["token"], encoding="utf-8")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(plane.keys.ca))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", plane.host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(plane.port))
    inside = await Cluster.connect(None, OperatorMetrics())
    try:
        with pytest.raises(RefusedError, match=f"system:serviceaccount:{namespace}:default"):
            await inside.get(PODS, namespace, "job-0")
    finally:
        await inside.close()


async def test_a_token_that_is_not_taken_is_no_refusal_of_what_was_asked(plane: ControlPlane, namespace: str) -> None:
    access = dataclasses.replace(plane.admin, certificate=None, key=None, token="of another cluster")
    cluster = await Cluster.connect(access.kubeconfig(plane.folder / "stale.kubeconfig"), OperatorMetrics())
    try:
        with pytest.raises(ClusterUnavailableError, match="401"):
            await cluster.get(PODS, namespace, "job-0")
    finally:
        await cluster.close()

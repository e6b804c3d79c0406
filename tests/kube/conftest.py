"""One control plane for all tests here; each has a namespace, and nodes, of its own."""

import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import pytest
import yaml

from harness.etcd.server import EtcdServer, running_server
from harness.kube.api import APPLY, Api
from harness.kube.control_plane import ControlPlane, running_control_plane
from harness.kube.elastic import STEPS, Cluster
from harness.kube.images import CHECKOUT, holdfast_image, system_image
from harness.kube.installation import Installation
from harness.kube.kubelet import Kubelet, running_kubelet
from harness.kube.network import GATEWAY, PodNetwork, pod_network
from harness.kube.pods import until
from harness.kube.tools import Tool, helm_program, kubectl_program
from harness.realrun import jobs

# A node that is silent for so long is NotReady; the test's nodes are heard every second.
GRACE_S = 6
log = logging.getLogger(__name__)


@pytest.fixture(scope="session")
def network() -> Iterator[PodNetwork]:
    with pod_network() as made:
        yield made


@pytest.fixture(scope="session")
def control_plane(network: PodNetwork, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    folder = tmp_path_factory.mktemp("control-plane")
    with ExitStack() as held:
        # Started inside, and left again: other tests want the machine's own network.
        with network.inside():
            plane = held.enter_context(running_control_plane(folder, host=GATEWAY, grace_s=GRACE_S))
        yield plane


@pytest.fixture(autouse=True)
def at_the_gateway(network: PodNetwork) -> Iterator[None]:
    with network.inside():
        yield


@pytest.fixture
async def api(control_plane: ControlPlane, at_the_gateway: None) -> AsyncIterator[Api]:
    """As an admin."""
    async with Api(control_plane.admin) as opened:
        yield opened


@pytest.fixture
async def kubelet(
    control_plane: ControlPlane, network: PodNetwork, api: Api, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Kubelet]:
    images = {
        "system": system_image(),
        "holdfast-worker": holdfast_image(arguments=("holdfast", "agent")),
        "holdfast-operator": holdfast_image("holdfast-operator"),
    }
    folder = tmp_path_factory.mktemp("pods")
    async with running_kubelet(control_plane, network, folder, images) as running:
        yield running


@pytest.fixture
async def namespace(api: Api, kubelet: Kubelet) -> AsyncIterator[str]:
    """Emptied at the end, while there still are nodes that run what is in it."""
    name = f"test-{os.urandom(3).hex()}"
    await api.create("/api/v1/namespaces", {"metadata": {"name": name}})
    account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
    await until(lambda: api.find(account), lambda found: found is not None, "given its service account")
    yield name
    log.warning(kubelet.last_words())  # which pytest shows of a test that failed
    await api.delete(f"/api/v1/namespaces/{name}")  # from now on nothing is made in it
    await api.delete(f"/api/v1/namespaces/{name}/pods", gracePeriodSeconds=0)


@pytest.fixture
def kubectl(control_plane: ControlPlane, namespace: str) -> Tool:
    return Tool(kubectl_program(), control_plane.kubeconfig, namespace)


@pytest.fixture
def helm(control_plane: ControlPlane, namespace: str) -> Tool:
    return Tool(helm_program(), control_plane.kubeconfig, namespace)


@pytest.fixture(scope="session")
def etcd(network: PodNetwork, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """Through which the nodes of jobs find each other; each test's jobs have a namespace there too."""
    with ExitStack() as held:
        with network.inside():
            server = held.enter_context(running_server(tmp_path_factory.mktemp("etcd"), host=GATEWAY))
        yield server


@pytest.fixture
async def crd(api: Api) -> None:
    """The kind is there, as the chart brings it."""
    definition = yaml.safe_load((CHECKOUT / "charts/holdfast/files/elasticjobs.holdfast.dev.yaml").read_text())
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{definition['metadata']['name']}"
    await api.patch(path, definition, APPLY, fieldManager="test", force="true")
    await until(lambda: api.find("/apis/holdfast.dev/v1alpha1/elasticjobs"), lambda found: found is not None, "served")


@pytest.fixture
def cluster(api: Api, namespace: str, crd: None, etcd: EtcdServer, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    host, port = etcd.endpoint
    state = tmp_path_factory.mktemp("state")
    for folder in (state, *state.parents[:-1]):
        folder.chmod(folder.stat().st_mode | 0o011)  # the pods are another user's
    return Cluster(api=api, namespace=namespace, endpoint=f"{host}:{port}", state=state)


@pytest.fixture
def operator(helm: Tool, kubelet: Kubelet, cluster: Cluster) -> Installation:
    """Not installed yet."""
    return Installation(helm, kubelet, cluster)


@pytest.fixture(scope="session")
def undisturbed_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash of what the toy Program's run leaves that nothing happened to."""
    ended = jobs.undisturbed(tmp_path_factory.mktemp("undisturbed") / "run", steps=STEPS)
    return str(ended.report["weights_sha256"])

"""One control plane for all tests here; each has a namespace, and nodes, of its own."""

import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import pytest

from harness.kube.api import Api
from harness.kube.control_plane import ControlPlane, running_control_plane
from harness.kube.images import holdfast_image, system_image
from harness.kube.kubelet import Kubelet, running_kubelet
from harness.kube.network import GATEWAY, PodNetwork, pod_network
from harness.kube.pods import until
from harness.kube.tools import Tool, kubectl_program

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

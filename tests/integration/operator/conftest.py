"""An API server without controllers, an etcd for rendezvous, and this operator's client of them."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import yaml

from harness.etcd.server import EtcdServer
from harness.kube.control_plane import ControlPlane, running_control_plane
from holdfast.ports.store import Store
from holdfast.stores.address import open_store, parse_store
from holdfast_operator.handlers.client import Cluster, Resource
from holdfast_operator.handlers.metrics import OperatorMetrics

CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions")
CRD = Path(__file__).parents[3] / "charts" / "holdfast" / "files" / "elasticjobs.holdfast.dev.yaml"
_NAMESPACES = Resource("", "v1", "namespaces")
ACCOUNTS = Resource("", "v1", "serviceaccounts")


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with running_control_plane(tmp_path_factory.mktemp("api-server"), controllers=False) as running:
        asyncio.run(_install(running))
        yield running


@pytest.fixture(scope="session")
def rendezvous_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer("rendezvous", tmp_path_factory.mktemp("rendezvous"))
    server.start()
    try:
        server.wait_healthy()
        yield server
    finally:
        server.kill()


@pytest.fixture
def metrics() -> OperatorMetrics:
    return OperatorMetrics()


@pytest.fixture
async def cluster(plane: ControlPlane, metrics: OperatorMetrics) -> AsyncIterator[Cluster]:
    opened = await Cluster.connect(plane.kubeconfig, metrics)
    yield opened
    await opened.close()


@pytest.fixture
async def namespace(cluster: Cluster) -> str:
    name = f"test-{os.urandom(3).hex()}"
    await cluster.create(_NAMESPACES, "", {"metadata": {"name": name}})
    # What a controller would do.
    await cluster.create(ACCOUNTS, name, {"metadata": {"name": "default"}})
    return name


@pytest.fixture
async def store(rendezvous_server: EtcdServer, namespace: str) -> AsyncIterator[Store]:
    """As the agents of this namespace see it."""
    host, port = rendezvous_server.endpoint
    opened = open_store(parse_store(f"etcd://{host}:{port}/holdfast/{namespace}"))
    yield opened
    await opened.close()


async def _install(plane: ControlPlane) -> None:
    cluster = await Cluster.connect(plane.kubeconfig, OperatorMetrics())
    try:
        crd = yaml.safe_load(CRD.read_text(encoding="utf-8"))
        name = crd["metadata"]["name"]
        await cluster.create(CRDS, "", crd)
        for _ in range(600):
            if await _is_established(cluster, name):
                return
            await asyncio.sleep(0.05)
        raise AssertionError("the CRD is not established")
    finally:
        await cluster.close()


async def _is_established(cluster: Cluster, name: str) -> bool:
    status = (await cluster.get(CRDS, "", name)).get("status") or {}
    states = {condition["type"]: condition["status"] for condition in status.get("conditions") or ()}
    return states.get("Established") == "True"

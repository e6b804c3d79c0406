"""The informer against a real API server: whatever becomes of the watch, the cache comes to be like the cluster."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from harness.etcd.operating import compact_history
from harness.kube.control_plane import ControlPlane
from holdfast_operator.api.v1alpha1.names import LABEL_JOB
from holdfast_operator.handlers.cache import Cache, Key
from holdfast_operator.handlers.client import PODS, Cluster
from holdfast_operator.handlers.informer import Informer, Wanted
from holdfast_operator.handlers.metrics import OperatorMetrics
from holdfast_operator.handlers.tasks import stop
from holdfast_operator.handlers.views import PodEntry, pod_entry
from integration.operator.objects import pod, until

pytestmark = [pytest.mark.kube, pytest.mark.slow]


class Pods:
    """An informer of a namespace's pods, and what it told."""

    def __init__(self, cluster: Cluster, namespace: str, metrics: OperatorMetrics) -> None:
        self.told: list[tuple[str, bool]] = []  # name, whether it came or went
        self.version = 0
        self._metrics = metrics
        wanted = Wanted(resource=PODS, namespace=namespace, selector=LABEL_JOB)
        self.informer = Informer(cluster, wanted, Cache[PodEntry](), pod_entry, self._changed, metrics)
        self.informer.seen = self._reached

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.informer.run())
        try:
            yield
        finally:
            await stop(task)

    @property
    def names(self) -> list[str]:
        return sorted(name for _, name in self.informer.cache)

    @property
    def lists(self) -> int:
        found = [line for line in self._metrics.text().decode().splitlines() if "relists_total{" in line]
        return 1 + int(float(found[0].split()[-1])) if found else 1

    def _changed(self, key: Key, before: PodEntry | None, after: PodEntry | None) -> None:
        if before is None or after is None:
            self.told.append((key[1], after is not None))

    def _reached(self, version: int) -> None:
        assert version >= self.version
        self.version = version


@pytest.fixture
def pods(cluster: Cluster, namespace: str, metrics: OperatorMetrics) -> Pods:
    return Pods(cluster, namespace, metrics)


async def test_what_is_there_and_what_changes_is_seen(cluster: Cluster, namespace: str, pods: Pods) -> None:
    await cluster.create(PODS, namespace, pod("a", 0))
    async with pods.running():
        await pods.informer.synced.wait()
        assert pods.names == ["a-0"]
        made = await cluster.create(PODS, namespace, pod("a", 1))
        await until(lambda: pods.names == ["a-0", "a-1"], "the new pod is seen")
        await cluster.delete(PODS, namespace, "a-1", uid=made["metadata"]["uid"], grace_s=0)
        await until(lambda: pods.names == ["a-0"], "that it is gone is seen")
    assert pods.told == [("a-0", True), ("a-1", True), ("a-1", False)]


async def test_a_long_list_is_read_page_by_page(
    cluster: Cluster, namespace: str, pods: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast_operator.handlers.informer._PAGE", "3")
    for index in range(8):
        await cluster.create(PODS, namespace, pod("a", index))
    async with pods.running():
        await pods.informer.synced.wait()
    assert pods.names == [f"a-{index}" for index in range(8)]


async def test_an_api_server_that_comes_back_is_watched_from_where_it_ended(
    plane: ControlPlane, cluster: Cluster, namespace: str, pods: Pods
) -> None:
    await cluster.create(PODS, namespace, pod("a", 0))
    async with pods.running():
        await pods.informer.synced.wait()
        await asyncio.to_thread(plane.stop_api)
        await asyncio.to_thread(plane.start_api)
        await cluster.create(PODS, namespace, pod("a", 1))
        await until(lambda: pods.names == ["a-0", "a-1"], "what came afterwards is seen")
    assert pods.lists == 1
    assert pods.told == [("a-0", True), ("a-1", True)]


async def test_where_history_is_gone_all_is_listed_and_what_vanished_is_told(
    plane: ControlPlane, cluster: Cluster, namespace: str, pods: Pods
) -> None:
    first = await cluster.create(PODS, namespace, pod("a", 0))
    await cluster.create(PODS, namespace, pod("a", 1))
    async with pods.running():
        await pods.informer.synced.wait()
    await cluster.delete(PODS, namespace, "a-0", uid=first["metadata"]["uid"], grace_s=0)
    last = await cluster.create(PODS, namespace, pod("a", 2))
    # An API server keeps the last changes itself; one that begins anew has to ask etcd for them.
    await asyncio.to_thread(plane.stop_api)
    await compact_history([plane.etcd.endpoint], int(last["metadata"]["resourceVersion"]))
    await asyncio.to_thread(plane.start_api)
    async with pods.running():
        await until(lambda: pods.names == ["a-1", "a-2"], "the cache is like the cluster")
    assert pods.lists == 2
    assert sorted(pods.told[2:]) == [("a-0", False), ("a-2", True)]

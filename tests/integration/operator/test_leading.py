"""The lease against a real API server: one replica acts, and never two."""

import asyncio
import time

import pytest

from harness.kube.control_plane import ControlPlane
from holdfast.errors import UserError
from holdfast_operator.handlers.client import LEASES, Cluster
from holdfast_operator.handlers.errors import LeadershipLostError
from holdfast_operator.handlers.leading import Leadership, LeaseSettings

pytestmark = [pytest.mark.kube, pytest.mark.slow]
_DURATION_S = 2.0


def replica(cluster: Cluster, namespace: str, identity: str) -> Leadership:
    settings = LeaseSettings(
        namespace=namespace,
        name="holdfast-operator",
        identity=identity,
        duration_s=_DURATION_S,
        renew_s=1.5,
        retry_s=0.2,
    )
    return Leadership(cluster, settings)


async def test_of_many_replicas_one_gets_the_lease(cluster: Cluster, namespace: str) -> None:
    replicas = [replica(cluster, namespace, f"replica-{number}") for number in range(5)]
    tasks = [asyncio.create_task(each.take()) for each in replicas]
    done, waiting = await asyncio.wait(tasks, timeout=_DURATION_S / 2)
    assert len(done) == 1
    assert sum(each.is_held for each in replicas) == 1
    for task in waiting:
        task.cancel()


async def test_a_lease_given_back_is_taken_at_once(cluster: Cluster, namespace: str) -> None:
    first, second = (replica(cluster, namespace, name) for name in ("first", "second"))
    await first.take()
    begun_s = time.monotonic()
    await first.release()
    assert not first.is_held
    await second.take()
    assert time.monotonic() - begun_s < _DURATION_S / 2
    assert (await cluster.get(LEASES, namespace, "holdfast-operator"))["spec"]["leaseTransitions"] == 1


async def test_a_silent_holder_stops_before_another_begins(cluster: Cluster, namespace: str) -> None:
    first, second = (replica(cluster, namespace, name) for name in ("first", "second"))
    await first.take()
    taking = asyncio.create_task(second.take())
    begun_s = time.monotonic()
    while not taking.done():
        assert not (first.is_held and second.is_held)
        await asyncio.sleep(0.01)
    assert time.monotonic() - begun_s >= _DURATION_S - 0.2
    assert not first.is_held


async def test_a_holder_that_renews_keeps_it(cluster: Cluster, namespace: str) -> None:
    first, second = (replica(cluster, namespace, name) for name in ("first", "second"))
    await first.take()
    holding, taking = asyncio.create_task(first.hold()), asyncio.create_task(second.take())
    done, _ = await asyncio.wait([holding, taking], timeout=2 * _DURATION_S)
    assert not done
    assert first.is_held
    for task in (holding, taking):
        task.cancel()


async def test_a_holder_that_cannot_renew_says_so_in_time(
    plane: ControlPlane, cluster: Cluster, namespace: str
) -> None:
    first = replica(cluster, namespace, "first")
    await first.take()
    holding = asyncio.create_task(first.hold())
    await asyncio.to_thread(plane.stop_api)
    try:
        begun_s = time.monotonic()
        with pytest.raises(LeadershipLostError):
            await asyncio.wait_for(holding, _DURATION_S)
        assert time.monotonic() - begun_s < _DURATION_S
        assert not first.is_held
    finally:
        await asyncio.to_thread(plane.start_api)


def test_a_lease_that_ends_before_it_is_renewed_is_refused() -> None:
    with pytest.raises(UserError, match="each should be less than the next"):
        LeaseSettings(namespace="n", name="l", identity="i", duration_s=5, renew_s=10)

"""Nothing is done while nothing happens, and no more pods are made than there is reason to."""

from dataclasses import replace
from random import Random

import pytest

from harness.reconciling.jobs import job
from harness.reconciling.operating import Operator
from harness.reconciling.playing import cluster_of, play, settle
from holdfast_operator.reconcile.deciding import reconcile
from holdfast_operator.reconcile.sizing import UNSCHEDULABLE_S


@pytest.mark.parametrize("hosts", [1, 2, 3, 5])
def test_a_full_cluster_holds_one_pod_that_waits_and_the_job_is_left_alone(hosts: int) -> None:
    cluster = cluster_of(job(nodes={"min": 1, "max": 8}), hosts)
    operator = Operator(cluster)
    settle(cluster, operator)
    made, done = cluster.makes, operator.done

    settle(cluster, operator)

    assert len(cluster.pods.now) == hosts + 1
    assert (cluster.makes, operator.done) == (made, done)
    assert made == 8


def test_what_is_asked_for_waits_its_time_before_it_shrinks() -> None:
    cluster = cluster_of(job(nodes={"min": 1, "max": 8}), hosts=3)
    operator = Operator(cluster)

    settle(cluster, operator, until_s=cluster.now_s + UNSCHEDULABLE_S - 1)
    assert len(cluster.pods.now) == cluster.job.now.status.nodes.desired == 8

    settle(cluster, operator, until_s=cluster.now_s + 3)
    assert len(cluster.pods.now) == cluster.job.now.status.nodes.desired == 4


@pytest.mark.parametrize("hosts", [1, 2, 3, 5])
def test_a_cluster_that_grows_is_filled_by_doubling(hosts: int) -> None:
    cluster = cluster_of(job(nodes={"min": 1, "max": 64}), hosts)
    operator = Operator(cluster)
    settle(cluster, operator)
    made = cluster.makes
    for number in range(100):
        cluster.add_host(f"new-{number}")

    asked = set()
    passes = len(operator.decisions)
    settle(cluster, operator)
    asked = {held.status.nodes.desired for held in cluster.job.versions}

    assert len(cluster.running()) == 64
    assert cluster.makes == made + 64 - hosts - 1, "pods are made once"
    assert {2 * (hosts + 1), min(64, 4 * (hosts + 1))} <= asked
    assert len(operator.decisions) - passes < 40


def test_a_host_that_flaps_while_its_agent_is_well_costs_nothing() -> None:
    cluster = cluster_of(job(), hosts=4)
    operator = Operator(cluster)
    settle(cluster, operator)
    made, held = cluster.makes, cluster.hosts.now["host-1"]

    for number in range(20):
        cluster.hosts.write({**cluster.hosts.now, "host-1": replace(held, is_ready=bool(number % 2))}, cluster.now_s)
        operator.act()
        cluster.now_s += 5.0
    settle(cluster, operator)

    assert cluster.makes == made
    assert cluster.job.now.status.disruptions.seen == 0


@pytest.mark.parametrize("seed", range(40))
def test_what_was_decided_and_done_is_decided_to_be_done(seed: int) -> None:
    """Applied to what it came to, without a moment in between, a decision is to do nothing that was done."""
    random = Random(seed)
    cluster = cluster_of(job(nodes={"min": 1, "max": 4}, restart_policy={"max_failures": 500}), hosts=4)
    operator = Operator(cluster)
    play(cluster, [operator], random, turns=random.randint(0, 150))
    operator.behind = lambda _: 0

    # What is made is given its uid in the next look, and what is gone is settled in it: then there is rest.
    for _ in range(3):
        operator.act()

    assert reconcile(operator.look()).actions == ()


def test_pods_made_and_taken_again_and_again_are_made_ever_more_slowly() -> None:
    """As where a host that is about to go takes every pod that tolerates its taint."""
    cluster = cluster_of(job(nodes={"min": 1, "max": 1}), hosts=1)
    operator = Operator(cluster)
    until_s = cluster.now_s + 600.0
    while cluster.now_s < until_s:
        operator.act()
        cluster.schedule()
        for pod in cluster.on("host-0"):
            if pod.deleted_s is None:
                cluster.evict(pod)
            else:
                cluster.remove(pod)
        cluster.now_s += 1.0

    assert 4 <= cluster.makes <= 12

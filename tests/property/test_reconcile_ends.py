"""A job that is over or suspended has no pods made, and none of its pods goes before it may (see `check_deletions`)."""

from random import Random

import pytest

from harness.reconciling.cluster import Cluster
from harness.reconciling.jobs import job
from harness.reconciling.operating import Operator
from harness.reconciling.playing import cluster_of, play, settle
from holdfast.model.records import Result
from holdfast_operator.status.conditions import condition_of, is_true

LENIENT = {"max_failures": 500}


def trained(cluster: Cluster, operator: Operator) -> None:
    settle(cluster, operator, until_s=cluster.now_s + 60.0)
    cluster.train()


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("result", list(Result))
def test_a_job_that_is_over_stays_over_and_has_no_more_pods_made(seed: int, result: Result) -> None:
    random = Random(seed)
    cluster = cluster_of(job(restart_policy=LENIENT), hosts=5)
    operators = [Operator(cluster), Operator(cluster)]
    play(cluster, operators, random, turns=100)
    settle(cluster, operators[0], until_s=cluster.now_s + 600.0)
    cluster.end(result)
    settle(cluster, operators[0], until_s=cluster.now_s + 600.0)
    made, seen = cluster.makes, cluster.job.now.status.disruptions.seen

    play(cluster, operators, random, turns=100)
    settle(cluster, operators[0])

    status = cluster.job.now.status
    assert cluster.makes == made
    assert status.disruptions.seen == seen
    assert is_true(status.conditions, "Failed" if result is Result.FAILED else "Complete")
    assert not cluster.running()


def test_pods_of_a_job_that_is_over_stay_for_their_logs() -> None:
    cluster = cluster_of(job(), hosts=4)
    operator = Operator(cluster)
    trained(cluster, operator)
    cluster.end(Result.COMPLETED)

    settle(cluster, operator)

    assert [pod.phase.value for pod in cluster.pods.now.values()] == ["Succeeded"] * 4


@pytest.mark.parametrize("seed", range(40))
def test_a_suspended_job_is_free_of_pods_and_one_that_is_resumed_has_them_again(seed: int) -> None:
    random = Random(seed)
    cluster = cluster_of(job(state={"url": "s3://bucket/gpt"}, restart_policy=LENIENT), hosts=6)
    operators = [Operator(cluster), Operator(cluster)]
    play(cluster, operators, random, turns=random.randint(0, 150))
    cluster.suspend(True)
    play(cluster, operators, random, turns=random.randint(0, 60))

    settle(cluster, operators[0])
    status = cluster.job.now.status
    assert not cluster.running()
    assert is_true(status.conditions, "Suspended"), status
    assert (status.phase, status.replicas, status.nodes.desired) == ("Suspended", 0, 0)

    cluster.suspend(False)
    for number in range(4):
        cluster.add_host(f"again-{number}")
    settle(cluster, operators[0])
    assert len(cluster.running()) == cluster.job.now.status.nodes.wanted > 0


def test_a_job_that_is_created_suspended_has_nothing_made() -> None:
    cluster = cluster_of(job(suspend=True), hosts=4)
    operator = Operator(cluster)

    settle(cluster, operator)

    assert (cluster.makes, operator.has_secret, operator.config) == (0, False, None)
    assert cluster.job.now.status.phase == "Suspended"


def test_a_job_whose_pods_are_gone_already_stays_suspended() -> None:
    """Of its training was heard too late: there is nothing any more that could be kept."""
    cluster = cluster_of(job(suspend=True), hosts=4)
    operator = Operator(cluster)
    settle(cluster, operator)
    before = cluster.job.now
    trained = before.status.model_copy(update={"started_time": before.status.observed_time})
    cluster.write_job(before.model_copy(update={"status": trained}))

    settle(cluster, operator)

    assert cluster.makes == 0
    assert cluster.job.now.status.phase == "Suspended"


def test_a_job_that_has_trained_without_storage_is_not_suspended() -> None:
    cluster = cluster_of(job(), hosts=4)
    operator = Operator(cluster)
    trained(cluster, operator)
    cluster.suspend(True)

    settle(cluster, operator)

    suspended = condition_of(cluster.job.now.status.conditions, "Suspended")
    assert len(cluster.running()) == 4
    assert suspended is not None
    assert (suspended.status, suspended.reason) == ("False", "SuspendRefused")
    assert "state.url" in suspended.message

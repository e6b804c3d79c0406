"""A rollout through three losses comes to the same pods and the same counts, whether it is cut short after any
one of its actions or done by two operators at once."""

from harness.reconciling.cluster import Cluster
from harness.reconciling.jobs import job
from harness.reconciling.operating import Operator
from harness.reconciling.playing import cluster_of, parts, settle
from holdfast_operator.api.v1alpha1.status import Disruptions
from holdfast_operator.reconcile.deciding import reconcile


def lose_three(cluster: Cluster) -> None:
    """One gets notice, one is lost without a word, one is deleted; three others come."""
    cluster.taint("host-0")
    cluster.silence("host-1")
    cluster.delete_host("host-2")
    for name in ("host-4", "host-5", "host-6"):
        cluster.add_host(name)


def rolled_out(operators: list[Operator]) -> Cluster:
    cluster = operators[0].cluster
    rounds(cluster, operators)
    lose_three(cluster)
    rounds(cluster, operators)
    settle(cluster, operators[0])
    return cluster


def rounds(cluster: Cluster, operators: list[Operator]) -> None:
    """All see the same and then act on it, one after the other."""
    for _ in range(60):
        cluster.now_s += 1.0
        for part in parts(cluster):
            part()
        snapshots = [operator.look() for operator in operators]
        for operator, snapshot in zip(operators, snapshots, strict=True):
            operator.carry_out(snapshot, reconcile(snapshot))


def check_as_undisturbed(cluster: Cluster) -> None:
    status = cluster.job.now.status
    assert status.disruptions == Disruptions(seen=3, survived=3)
    assert status.nodes.ready == len(cluster.pods.now) == 4
    assert cluster.makes == 7


def test_two_operators_that_act_at_once_make_no_pod_twice() -> None:
    cluster = cluster_of(job(), hosts=4)

    check_as_undisturbed(rolled_out([Operator(cluster), Operator(cluster)]))


def test_an_operator_killed_after_any_action_of_a_rollout_is_replaced_by_one_that_comes_to_the_same() -> None:
    undisturbed = Operator(cluster_of(job(), hosts=4))
    check_as_undisturbed(rolled_out([undisturbed]))
    assert undisturbed.done > 25

    for action in range(1, undisturbed.done + 1):
        operator = Operator(cluster_of(job(), hosts=4), dies_after=action)
        check_as_undisturbed(rolled_out([operator]))
        assert operator.lives == 2

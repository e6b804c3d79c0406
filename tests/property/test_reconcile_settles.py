"""A job's pods come to what its spec wants, from any state and through anything that happens on the way."""

from random import Random

import pytest

from harness.reconciling.cluster import Cluster
from harness.reconciling.jobs import job
from harness.reconciling.operating import Operator
from harness.reconciling.playing import cluster_of, play, settle
from holdfast_operator.api.v1alpha1.status import Disruptions
from holdfast_operator.reconcile.deciding import reconcile
from holdfast_operator.reconcile.sizing import wanted_by

SEEDS = 150
LENIENT = {"max_failures": 500}


def check_settled(cluster: Cluster, operator: Operator) -> None:
    """As many nodes as wanted or as there is room for, and nothing more to do."""
    nodes, status = cluster.job.now.spec.nodes, cluster.job.now.status
    staying = [entry for entry in status.ledger if not entry.leaving]
    ready = len(cluster.running())
    assert ready == status.nodes.ready == min(wanted_by(nodes), room(cluster)), status
    probes = 1 if ready < wanted_by(nodes) else 0
    assert len(staying) == max(ready + probes, nodes.min)
    assert {entry.uid for entry in staying} <= cluster.pods.now.keys()
    assert reconcile(operator.look()).actions == ()


def check_counts(cluster: Cluster) -> None:
    """Each pod that was taken away counts once, unless it was to go anyway, and no other counts."""
    counted = {uid for uid, entry in cluster.ledgers.items() if entry.counted}
    seen = cluster.job.now.status.disruptions
    assert seen.seen == len(counted)
    assert counted <= cluster.faulted, [cluster.ledgers[uid] for uid in counted - cluster.faulted]
    for uid in cluster.faulted - counted - cluster.asked:
        entry = cluster.ledgers.get(uid)
        assert entry is None or not entry.joined or entry.leaving == "Failed", entry
    assert seen.survived <= seen.seen


def room(cluster: Cluster) -> int:
    good = [h for h in cluster.hosts.now.values() if h.is_ready and not h.taints and not h.is_unschedulable]
    return len(good) * cluster.capacity


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_happened_the_wanted_pods_are_there_in_the_end_and_each_disruption_counts_once(seed: int) -> None:
    random = Random(seed)
    hosts, most, capacity = random.randint(2, 6), random.randint(1, 5), random.randint(1, 2)
    cluster = cluster_of(job(nodes={"min": 1, "max": most}, restart_policy=LENIENT), hosts, capacity)
    operators = [Operator(cluster) for _ in range(random.randint(1, 2))]
    play(cluster, operators, random, turns=300)

    settle(cluster, operators[0])

    check_settled(cluster, operators[0])
    check_counts(cluster)


def test_an_undisturbed_job_is_never_touched() -> None:
    cluster = cluster_of(job(), hosts=4)
    operator = Operator(cluster)

    settle(cluster, operator)

    assert cluster.makes == 4
    assert cluster.job.now.status.disruptions == Disruptions()
    assert {pod.phase.value for pod in cluster.pods.now.values()} == {"Running"}

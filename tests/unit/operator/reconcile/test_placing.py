"""Who goes first where there are too many."""

from typing import Any

from harness.reconciling.jobs import job
from harness.reconciling.snapshots import entry, pod, run, snapshot, status_after
from holdfast_operator.api.v1alpha1.status import ElasticJobStatus
from holdfast_operator.reconcile.snapshot import PodPhase


def goers(count: int, *pods: Any, **fields: Any) -> list[int]:
    """Of so many that are too many."""
    of = job(nodes={"min": 1, "max": len(pods), "desired": len(pods) - count})
    joined = fields["run"].nodes
    ledger = tuple(entry(held.index, joined=held.name in joined) for held in pods)
    status = status_after(snapshot(*pods, of=of, status=ElasticJobStatus(ledger=ledger), **fields))
    return [held.index for held in status.ledger if held.leaving]


def test_those_go_first_that_the_job_has_least_of() -> None:
    waiting = pod(0, phase=PodPhase.PENDING, host="")
    starting = pod(1, phase=PodPhase.PENDING)
    pods = (waiting, starting, pod(2), pod(3), pod(4))
    spare = run(2, 3, 4, members=run(3, 4).members)

    assert [goers(count, *pods, run=spare) for count in (1, 2, 3, 4)] == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 4]]


def test_one_that_leaves_anyway_is_one_less() -> None:
    pods = (pod(0, drain_wanted_s=30.0), pod(1), pod(2))

    assert goers(1, *pods, run=run(0, 1, 2)) == [0]


def test_a_job_whose_spec_wants_more_asks_for_all_of_them_at_once() -> None:
    of = job(nodes={"min": 1, "max": 8, "desired": 8})
    before = status_after(snapshot(pod(0), pod(1), of=job(nodes={"min": 1, "max": 8, "desired": 2})))

    status = status_after(snapshot(pod(0), pod(1), of=of, status=before))

    assert [held.index for held in status.ledger] == list(range(8))
    assert (status.nodes.desired, status.replicas) == (8, 8)

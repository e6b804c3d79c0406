"""A job of as many nodes as one may have, of which everything is told that can be, fits into an object of etcd's."""

import json
from typing import Any

from harness.reconciling.jobs import job
from harness.reconciling.snapshots import NOW_S, entry_after, pod, run, snapshot, status_after
from holdfast_operator.api.v1alpha1.elastic_job import NODES_MAX, RestartPolicy
from holdfast_operator.api.v1alpha1.parse import parse_status
from holdfast_operator.api.v1alpha1.status import ElasticJobStatus, Failure, NodeEntry
from holdfast_operator.api.v1alpha1.times import text_of
from holdfast_operator.reconcile.actions import CreatePod
from holdfast_operator.reconcile.brevity import shortened
from holdfast_operator.reconcile.deciding import reconcile
from holdfast_operator.reconcile.snapshot import Condition

BYTES_MAX = 1024 * 1024  # of etcd's 1.5 MiB: the rest is for the spec, and for conditions
WORST = "\x01<\u2028\U0001f600" * 400  # each takes six bytes in JSON, or twelve
FAILURES_MAX = next(bound.le for bound in RestartPolicy.model_fields["max_failures"].metadata if hasattr(bound, "le"))
TARGET = {"DisruptionTarget": Condition(type="DisruptionTarget", status=True, reason="Taint", message=WORST)}


def uid(number: int) -> str:
    return f"6c1f0f6e-0000-4000-8000-{number:012d}"


def gone(number: int) -> NodeEntry:
    at = text_of(NOW_S - 60.0)
    return NodeEntry(
        index=number % NODES_MAX, uid=uid(number), joined=True, leaving="Notice", reason="r" * 192, since=at, until=at,
        absent=at, generation=10**9, counted=True, survived=True,
    )  # fmt: skip


def test_the_largest_job_at_its_worst_fits_into_one_object() -> None:
    count = 2 * NODES_MAX + 8  # that stand; as many as may, of which half leave and the others are about to
    pods = [pod(n % NODES_MAX, uid=uid(n), conditions=TARGET, name=f"{'n' * 54}-{n}") for n in range(count)]
    held = tuple(NodeEntry(index=p.index, uid=p.uid, joined=True) for p in pods)
    failed = tuple(
        Failure(pod="n" * 60, uid=uid(n), time=text_of(NOW_S), reason=shortened(WORST, 1024))
        for n in range(FAILURES_MAX)
    )
    status = ElasticJobStatus(
        ledger=(*held, *(gone(10_000 + n) for n in range(5 * NODES_MAX))), failures=failed, observed_generation=1
    )
    of = job(nodes={"min": 1, "max": NODES_MAX}, restart_policy={"max_failures": FAILURES_MAX})

    after = status_after(snapshot(*pods, of=of, status=status, run=run(generation=10**9)))

    assert sum(bool(one.leaving) for one in after.ledger) == 3 * NODES_MAX + 8
    # As JSON of ASCII, which is the longest of all ways to write it, but for `<`.
    size = sum(len(_ascii(part)) for part in (*after.ledger, *after.failures))
    assert size < BYTES_MAX, size


def _ascii(part: Any) -> str:
    text = json.dumps(part.model_dump(mode="json", by_alias=True), separators=(",", ":"))
    return text.replace("<", "\\u003c") + ","


def test_what_is_not_set_is_not_written_and_what_is_written_is_read() -> None:
    status = ElasticJobStatus(ledger=(NodeEntry(index=0), gone(3)))
    written = status.model_dump(mode="json", by_alias=True)

    assert written["ledger"][0] == {"index": 0}
    assert parse_status(written) == status


def test_of_pods_that_are_gone_the_newest_are_remembered() -> None:
    held = tuple(gone(n).model_copy(update={"since": text_of(NOW_S - n)}) for n in range(1, 150))
    shot = snapshot(pod(0), status=ElasticJobStatus(ledger=held), of=job(nodes={"min": 1, "max": 3}))

    assert sorted(one.index for one in status_after(shot).ledger if one.leaving) == list(range(1, 101))
    assert entry_after(shot, 1).reason == ""


def test_no_more_pods_are_made_while_twice_as_many_stand_as_the_job_may_have_nodes() -> None:
    pods = [pod(n, conditions=TARGET) for n in range(12)]

    def made(*pods: Any) -> int:
        shot = snapshot(*pods, of=job(nodes={"min": 1, "max": 2}))
        return sum(isinstance(action, CreatePod) for action in reconcile(shot).actions)

    assert (made(*pods), made(*pods[:11]), made(*pods[:10])) == (0, 1, 2)

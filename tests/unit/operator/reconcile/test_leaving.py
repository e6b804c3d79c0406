"""A node that leaves is told to, waited for, and removed once nothing hangs on it or its time is over."""

from dataclasses import replace
from typing import Any

import pytest

from harness.reconciling.jobs import job
from harness.reconciling.snapshots import (
    NOW_S,
    drain,
    entry,
    entry_after,
    host,
    kinds,
    pod,
    run,
    snapshot,
    status_after,
)
from holdfast.model.ids import NodeId
from holdfast_operator.api.v1alpha1.status import ElasticJobStatus, Failure, NodeEntry, StatusCondition
from holdfast_operator.api.v1alpha1.times import seconds_of, text_of
from holdfast_operator.reconcile.actions import CancelDrain, CreatePod, DeletePod, DrainNode
from holdfast_operator.reconcile.deciding import reconcile
from holdfast_operator.reconcile.notices import OPEN_GRACE_S
from holdfast_operator.reconcile.snapshot import ContainerEnd, PodPhase, Snapshot, Taint
from holdfast_operator.status.conditions import condition_of

NODE = NodeId("gpt-0")
TAINT = Taint(key="aws-node-termination-handler/spot-itn", effect="NoSchedule")
TAINTED = {"host-0": host(0, taints=(TAINT,))}


def leaving(
    kind: Any = "Notice", *, until_s: float | None = NOW_S + 20.0, absent_s: float | None = None
) -> ElasticJobStatus:
    """`gpt-0` does, and is absent for so long; `gpt-1` stays."""
    since, until = text_of(NOW_S - 5.0), text_of(until_s) if until_s is not None else None
    absent = text_of(NOW_S - absent_s) if absent_s is not None else None
    goer = entry(0, leaving=kind, since=since, until=until, absent=absent, counted=True, generation=3)
    return ElasticJobStatus(ledger=(goer, entry(1)), observed_generation=1)


def seen(
    kind: Any = "Notice",
    *,
    until_s: float | None = NOW_S + 20.0,
    absent_s: float | None = None,
    first: Any = None,
    **fields: Any,
) -> Snapshot:
    status = leaving(kind, until_s=until_s, absent_s=absent_s)
    return snapshot(first or pod(0), pod(1), status=status, **fields)


def of_type(kind: type, shot: Snapshot) -> list[Any]:
    return [action for action in reconcile(shot).actions if isinstance(action, kind)]


def test_a_node_with_notice_is_told_before_anything_else_is_done() -> None:
    decision = reconcile(snapshot(pod(0), hosts=TAINTED, has_secret=False, config=None))

    assert kinds(decision.actions)[:4] == ["DrainNode", "CreateSecret", "ApplyConfig", "WriteStatus"]
    assert kinds(decision.actions)[-1] == "CreatePod"
    told = decision.actions[0]
    assert isinstance(told, DrainNode)
    assert (told.node, told.grace_s) == (NODE, 25.0)
    assert "host-0" in told.reason


def test_a_node_that_is_asked_to_go_is_told_once_that_is_written() -> None:
    """Whom to ask is the operator's choice, and another would choose otherwise."""
    of = job(nodes={"min": 1, "max": 2, "desired": 1})
    decision = reconcile(snapshot(pod(0), pod(1), of=of))

    order = kinds(decision.actions)
    assert order.index("WriteStatus") < order.index("DrainNode")
    assert entry_after(snapshot(pod(0), pod(1), of=of), 1).leaving == "Asked"


@pytest.mark.parametrize(
    ("shot", "goes"),
    [
        (seen(run=run(0, 1, drains={0: drain(0)})), False),
        (seen(run=run(0, 1, drains={0: drain(0, is_released=True)})), False),
        (seen(run=run(1, drains={0: drain(0, is_released=True)})), True),
        (seen(run=run(1)), False),
        (seen(run=run(1), absent_s=9.0), False),
        (seen(run=run(1), absent_s=10.0), True),
        (seen(run=run(1, drains={0: drain(0)}), absent_s=15.0), False),
        (seen(run=run(1, drains={0: drain(0)}), absent_s=15.0, until_s=NOW_S), True),
        (seen(run=run(0, 1), absent_s=15.0), False),
        (seen(run=run(1), absent_s=15.0, store_trouble="away"), False),
        (seen(run=run(0, 1, drains={0: drain(0)}), until_s=NOW_S), True),
        (seen(run=run(0, 1), store_trouble="away"), False),
        (seen(run=None, store_trouble="away"), False),
        (seen(run=run(0, 1), store_trouble="away", until_s=NOW_S), True),
        (seen("Lost"), True),
    ],
    ids=[
        "drains",
        "is let go",
        "has left",
        "absent for a moment",
        "absent for a while",
        "absent for long",
        "absent, and holds state",
        "absent, and its time is over",
        "is back",
        "absent, it was said",
        "time over",
        "unknown",
        "never known",
        "unknown, time over",
        "lost",
    ],
)
def test_a_pod_goes_when_nothing_hangs_on_it_or_its_time_is_over(shot: Snapshot, goes: bool) -> None:
    assert [action.uid for action in of_type(DeletePod, shot)] == (["uid-0"] if goes else [])


def test_how_long_an_agent_is_absent_is_remembered_until_it_is_back() -> None:
    gone = seen(run=run(1))
    since = entry_after(gone, 0).absent
    back = replace(seen(run=run(0, 1)), job=gone.job.model_copy(update={"status": status_after(gone)}))

    assert since == text_of(NOW_S)
    assert entry_after(replace(gone, job=back.job, now_s=NOW_S + 5.0), 0).absent == since
    assert entry_after(back, 0).absent is None
    assert entry_after(seen(run=run(1), store_trouble="away"), 0).absent is None


@pytest.mark.parametrize("kind", ["Asked", "Notice"])
@pytest.mark.parametrize(
    ("fields", "goes"),
    [
        ({"run": run(0, 1, drains={0: drain(0, grace_s=OPEN_GRACE_S)})}, False),
        ({"run": run(0, 1, drains={0: drain(0, grace_s=OPEN_GRACE_S)}), "store_trouble": "away"}, False),
        ({"run": None, "store_trouble": "away"}, False),
        ({"run": run(1, drains={0: drain(0, is_released=True)})}, True),
        ({"run": run(1, drains={0: drain(0)}), "absent_s": 9.0}, False),
        ({"run": run(1, drains={0: drain(0)}), "absent_s": 10.0}, True),
        ({"run": run(1), "hosts": {"host-1": host(1)}}, True),
    ],
    ids=["drains", "unknown", "never known", "was let go", "absent for a moment", "gone", "host lost"],
)
def test_a_node_that_nobody_said_an_end_of_has_all_the_time_there_is(
    kind: str, fields: dict[str, Any], goes: bool
) -> None:
    year = replace(seen(kind, until_s=None, **fields), now_s=NOW_S + (365 * 86_400.0 if not goes else 0.0))
    year = year if "absent_s" not in fields else replace(year, now_s=NOW_S)

    assert any(action.uid == "uid-0" for action in of_type(DeletePod, year)) is goes


@pytest.mark.parametrize("fields", [{"suspend": True, "state": {"url": "s3://bucket/gpt"}}, {"desired": 1}])
def test_what_the_operator_asks_for_has_no_deadline_of_its_own_and_is_asked_again_if_forgotten(
    fields: dict[str, Any],
) -> None:
    nodes = {"min": 1, "max": 2, "desired": fields.get("desired")}
    of = job(nodes=nodes, **{name: value for name, value in fields.items() if name != "desired"})
    first = snapshot(pod(0), pod(1), of=of)
    later = replace(first, job=of.model_copy(update={"status": status_after(first)}), now_s=NOW_S + 86_400.0)

    assert entry_after(first, 1).until is None
    for shot in (first, later):
        assert {action.grace_s for action in of_type(DrainNode, shot)} == {OPEN_GRACE_S}
        assert of_type(DeletePod, shot) == []
    told = replace(later, run=run(0, 1, drains={n: drain(n, grace_s=OPEN_GRACE_S) for n in (0, 1)}))
    assert (of_type(DrainNode, told), entry_after(told, 1).until) == ([], None)


def test_a_node_that_leaves_at_leisure_is_told_to_hurry_once_the_job_is_over() -> None:
    status = leaving("Asked", until_s=None)
    failures = tuple(Failure(pod="gpt-9", uid=str(n), time=text_of(NOW_S), reason="OOMKilled") for n in range(4))
    shot = snapshot(pod(0), pod(1), status=status.model_copy(update={"failures": failures}))

    assert status_after(shot).finished_time is not None
    assert seconds_of(entry_after(shot, 0).until or "") == NOW_S + 25.0


def test_a_node_that_is_waited_for_is_looked_at_again_at_its_deadline() -> None:
    assert reconcile(seen(run=run(0, 1, drains={0: drain(0)}))).look_again_s == 20.0


def test_without_the_rendezvous_nobody_is_told_anything() -> None:
    assert of_type(DrainNode, seen(store_trouble="away")) == []


def test_a_drain_that_stands_is_not_asked_for_again_unless_it_ends_too_late() -> None:
    assert of_type(DrainNode, seen(run=run(0, 1, drains={0: drain(0, grace_s=25.0)}))) == []
    late = of_type(DrainNode, seen(run=run(0, 1, drains={0: drain(0, grace_s=1800.0)})))
    assert [action.grace_s for action in late] == [20.0]


@pytest.mark.parametrize("kind", ["Asked", "Notice"])
def test_a_node_that_leaves_and_gets_sooner_notice_leaves_sooner_and_counts_no_further(kind: str) -> None:
    shot = seen(kind, until_s=NOW_S + 1800.0, hosts={**TAINTED, "host-1": host(1)})
    shot = replace(shot, run=run(0, 1, drains={0: drain(0, grace_s=1800.0)}))
    held = entry_after(shot, 0)

    assert held.leaving == kind
    assert [action.grace_s for action in of_type(DrainNode, shot)] == [25.0]
    assert seconds_of(held.until or "") == NOW_S + 25.0
    assert status_after(shot).disruptions.seen == 0


HANGS = pod(0, deleted_s=NOW_S - 15.0, grace_s=55.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"is_ready": None},
        {"is_ready": False},
        {"taints": (Taint(key="node.kubernetes.io/unreachable", effect="NoExecute"),)},
    ],
)
def test_a_pod_that_hangs_in_terminating_on_a_host_that_is_silent_is_removed_by_force(fields: Any) -> None:
    shot = seen("Lost", first=HANGS, hosts={"host-0": host(0, **fields), "host-1": host(1)}, run=run(1))

    assert of_type(DeletePod, replace(shot, now_s=NOW_S + 44.5)) == []
    assert [action.grace_s for action in of_type(DeletePod, replace(shot, now_s=NOW_S + 45.0))] == [0]


def test_a_pod_that_hangs_on_a_host_that_is_well_is_told_of_and_never_removed_by_force() -> None:
    shot = seen("Lost", first=HANGS, run=run(1))
    early, late = replace(shot, now_s=NOW_S + 99.5), replace(shot, now_s=NOW_S + 100.0)  # its grace of 55 s, and 60 s

    def degraded(shot: Snapshot) -> StatusCondition:
        condition = condition_of(status_after(shot).conditions, "Degraded")
        assert condition is not None
        return condition

    assert of_type(DeletePod, replace(shot, now_s=NOW_S + 1e6)) == []
    assert degraded(early).reason == "FewerNodes"
    assert degraded(late).reason == "PodHangs"
    assert "gpt-0" in degraded(late).message


@pytest.mark.parametrize(
    "hosts",
    [
        {},
        {
            "host-0": host(
                0, is_ready=None, taints=(Taint(key="node.kubernetes.io/out-of-service", effect="NoExecute"),)
            )
        },
    ],
)
def test_a_pod_of_a_host_that_is_gone_for_good_is_not_waited_for(hosts: Any) -> None:
    shot = seen("Lost", hosts={**hosts, "host-1": host(1)}, run=run(1))

    assert [action.grace_s for action in of_type(DeletePod, shot)] == [0]


@pytest.mark.parametrize(
    ("fields", "cancelled"),
    [
        ({"run": run(1, drains={0: drain(0)})}, True),
        ({"run": run(0, 1, drains={0: drain(0)})}, False),
        ({"run": run(1, drains={0: drain(0, is_released=True)})}, False),
        ({"run": run(1, drains={0: drain(0)}, members=frozenset({NODE, NodeId("gpt-1")}))}, False),
        ({"run": run(1, drains={0: drain(0)}), "store_trouble": "away"}, False),
    ],
    ids=["not honoured", "there", "honoured", "not missed yet", "unreadable"],
)
def test_a_drain_that_nobody_will_honour_any_more_is_taken_back(fields: dict[str, Any], cancelled: bool) -> None:
    shot = snapshot(pod(1), status=leaving(), **fields)

    assert of_type(CancelDrain, shot) == ([CancelDrain(node=NODE)] if cancelled else [])


def test_a_name_is_free_once_its_pod_its_agent_and_its_drain_are_gone() -> None:
    def made(*, run: Any, pods: Any = (), trouble: str = "") -> list[str]:
        of = snapshot(pod(0), pod(1)).job
        status = ElasticJobStatus(ledger=(leaving().ledger[0],), observed_generation=1)
        shot = snapshot(*pods, of=of, status=status, run=run, store_trouble=trouble)
        return [action.name for action in of_type(CreatePod, shot)]

    assert made(run=run()) == ["gpt-0", "gpt-1"]
    assert made(run=run(drains={0: drain(0, is_released=True)})) == ["gpt-0", "gpt-1"]
    assert made(run=run(0)) == ["gpt-1", "gpt-2"]
    assert made(run=run(drains={0: drain(0)})) == ["gpt-1", "gpt-2"]
    assert made(run=None, trouble="away") == ["gpt-1", "gpt-2"]
    assert made(run=run(), pods=(pod(0, deleted_s=NOW_S, grace_s=55.0),)) == ["gpt-1", "gpt-2"]


def test_a_pod_that_is_not_seen_is_waited_for_before_it_counts_as_vanished() -> None:
    of, status = snapshot(pod(0)).job, ElasticJobStatus(ledger=(entry(0),), observed_generation=1)
    unseen = snapshot(of=of, status=status, run=run())

    assert reconcile(unseen).look_again_s == 10.0
    later = replace(snapshot(of=of, status=status_after(unseen), run=run()), now_s=NOW_S + 10.0)
    assert entry_after(unseen, 0).leaving == ""
    assert [held.leaving for held in status_after(later).ledger if held.uid] == ["Lost"]
    assert status_after(later).disruptions.seen == 1
    assert status_after(snapshot(of=of, status=status, run=run(0))).ledger[0].since is None, "its agent is there"


def test_a_pod_that_left_is_cleared_away_for_the_next_of_its_name() -> None:
    ended = pod(0, phase=PodPhase.SUCCEEDED, end=ContainerEnd(exit_code=0))
    goer = NodeEntry(index=0, uid="uid-0", joined=True)
    shot = snapshot(ended, pod(1), status=ElasticJobStatus(ledger=(goer, entry(1))), run=run(1))

    assert [action.uid for action in of_type(DeletePod, shot)] == ["uid-0"]


def test_of_a_job_that_is_over_only_pods_that_do_not_end_are_removed() -> None:
    ended = pod(0, phase=PodPhase.SUCCEEDED, end=ContainerEnd(exit_code=0, finished_s=NOW_S))
    over = {"finished_time": text_of(NOW_S - 10.0)}

    def removed(first: Any, **fields: Any) -> list[str]:
        status = leaving("Asked", **fields).model_copy(update=over)
        return [action.uid for action in of_type(DeletePod, snapshot(first, status=status, run=run()))]

    assert removed(ended, until_s=NOW_S - 1.0) == []
    assert removed(pod(0)) == []
    assert removed(pod(0), until_s=NOW_S) == ["uid-0"]


@pytest.mark.parametrize("exit_code", [0, 1])
@pytest.mark.parametrize("is_over", [False, True])
def test_a_pod_whose_agent_has_ended_while_another_container_runs_on_gives_its_host_free(
    exit_code: int, is_over: bool
) -> None:
    held = pod(0, end=ContainerEnd(exit_code=exit_code, finished_s=NOW_S - 60.0))
    status = ElasticJobStatus(
        ledger=(entry(0),), observed_generation=1, finished_time=text_of(NOW_S - 10.0) if is_over else None
    )
    first = snapshot(held, status=status, run=run())

    later = replace(first, job=first.job.model_copy(update={"status": status_after(first)}))
    assert [action.uid for action in of_type(DeletePod, later)] == ["uid-0"]
    ended = replace(held, phase=PodPhase.FAILED if exit_code else PodPhase.SUCCEEDED)
    if is_over:
        assert of_type(DeletePod, replace(later, now_s=NOW_S - 0.5)) == [], "it may end yet"
    kept = of_type(DeletePod, replace(later, pods=(ended,)))
    assert len(kept) == (not is_over and exit_code == 0), "its logs are kept where nothing runs any more"

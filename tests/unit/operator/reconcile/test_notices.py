"""Whatever announces a pod's end is heard, with its deadline; whatever means its loss, is believed once its agent is
gone too."""

from dataclasses import replace
from math import inf
from typing import Any

import pytest

from harness.reconciling.jobs import job
from harness.reconciling.snapshots import NOW_S, drain, entry_after, host, pod, run, snapshot, status_after
from holdfast_operator.api.v1alpha1.times import seconds_of
from holdfast_operator.reconcile import notices
from holdfast_operator.reconcile.deciding import reconcile
from holdfast_operator.reconcile.snapshot import Condition, Taint
from holdfast_operator.reconcile.view import View

NOTICE_S = 25.0
TARGET = {"DisruptionTarget": Condition(type="DisruptionTarget", status=True, reason="EvictionByEvictionAPI")}


def taint(key: str, **fields: Any) -> dict[str, Any]:
    return {"taints": (Taint(key=key, effect="NoSchedule", **fields),)}


@pytest.mark.parametrize(
    "fields",
    [
        *(taint(key) for key in job().spec.preemption.notice_taints if key != notices.UNSCHEDULABLE),
        taint(notices.OUT_OF_SERVICE),
        {"is_unschedulable": True, **taint("aws-node-termination-handler/spot-itn")},
    ],
)
def test_a_host_that_goes_gives_its_pod_notice(fields: dict[str, Any]) -> None:
    found = notices.notice(View(snapshot(pod(0), hosts={"host-0": host(0, **fields)})), pod(0))

    assert found is not None
    assert found.until_s == NOW_S + NOTICE_S
    assert "host-0" in found.reason


@pytest.mark.parametrize("fields", [{"is_unschedulable": True}, taint(notices.UNSCHEDULABLE)])
def test_a_host_that_merely_takes_no_more_pods_gives_all_the_time_there_is(fields: dict[str, Any]) -> None:
    found = notices.notice(View(snapshot(pod(0), hosts={"host-0": host(0, **fields)})), pod(0))

    assert found is not None
    assert found.until_s == inf


def test_a_taint_that_is_not_listed_means_nothing() -> None:
    seen = snapshot(pod(0), hosts={"host-0": host(0, **taint("example.com/dedicated"))})

    assert notices.notice(View(seen), pod(0)) is None


@pytest.mark.parametrize(
    "hint",
    [
        Taint(key="DeletionCandidateOfClusterAutoscaler", effect="PreferNoSchedule"),
        Taint(key="DeletionCandidateOfClusterAutoscaler", effect="NoSchedule"),
        Taint(key="karpenter.sh/disrupted", effect="PreferNoSchedule"),
    ],
)
def test_a_hint_that_may_be_taken_back_is_no_notice(hint: Taint) -> None:
    assert notices.notice(View(snapshot(pod(0), hosts={"host-0": host(0, taints=(hint,))})), pod(0)) is None


def test_which_taints_are_notice_is_the_jobs_to_say() -> None:
    of = job(nodes={"min": 1, "max": 1}, preemption={"notice_taints": ["example.com/leaves"], "notice": 90.0})
    hosts = {"host-0": host(0, **taint("example.com/leaves"))}
    found = notices.notice(View(snapshot(pod(0), of=of, hosts=hosts)), pod(0))
    cordoned = notices.notice(View(snapshot(pod(0), of=of, hosts={"host-0": host(0, is_unschedulable=True)})), pod(0))

    assert found is not None
    assert found.until_s == NOW_S + 90.0
    assert cordoned is None


@pytest.mark.parametrize(
    ("fields", "until_s"),
    [
        ({"since_s": NOW_S - 10.0}, NOW_S + 15.0),
        ({"value": str(int(NOW_S) - 10)}, NOW_S + 15.0),
        ({"value": "1"}, NOW_S + 25.0),  # no time of these days
        ({"value": "spot"}, NOW_S + 25.0),
        ({"since_s": NOW_S - 3600.0}, NOW_S + 25.0),  # it should have gone long ago, and is there
    ],
)
def test_notice_counts_from_when_the_taint_was_set_where_that_is_told(fields: dict[str, Any], until_s: float) -> None:
    hosts = {"host-0": host(0, **taint("ToBeDeletedByClusterAutoscaler", **fields))}
    found = notices.notice(View(snapshot(pod(0), hosts=hosts)), pod(0))

    assert found is not None
    assert found.until_s == until_s


def test_a_deletion_by_others_is_notice_until_its_grace_is_over() -> None:
    seen = snapshot(pod(0, deleted_s=NOW_S - 5.0, grace_s=60.0, conditions=TARGET))

    assert seconds_of(entry_after(seen, 0).until or "") == NOW_S + 25.0, "the sooner of the two"
    late = snapshot(pod(0, deleted_s=NOW_S - 50.0, grace_s=60.0, conditions=TARGET))
    assert seconds_of(entry_after(late, 0).until or "") == NOW_S + 10.0


@pytest.mark.parametrize(
    "seen",
    [
        snapshot(pod(0, conditions=TARGET)),
        snapshot(pod(0, drain_wanted_s=25.0)),
        snapshot(pod(0), run=run(0, drains={0: drain(0)})),
        snapshot(pod(0), hosts={}),
    ],
    ids=["disruption target", "annotation", "drained by others", "host deleted"],
)
def test_whoever_lets_a_node_go_it_counts_once_and_is_replaced(seen: Any) -> None:
    status = status_after(seen)

    assert [held.leaving for held in status.ledger] == ["Notice", ""]
    assert status.disruptions.seen == 1
    again = replace(seen, job=seen.job.model_copy(update={"status": status}), now_s=NOW_S + 1.0)
    assert status_after(again).disruptions.seen == 1


def test_notice_that_is_taken_back_changes_nothing_any_more() -> None:
    """What was drained has left or is about to: it does not come back and forth with a taint."""
    tainted = snapshot(pod(0), hosts={"host-0": host(0, is_unschedulable=True)})
    again = snapshot(pod(0), status=status_after(tainted))

    assert entry_after(again, 0).leaving == "Notice"


@pytest.mark.parametrize("fields", [{"is_ready": None}, {"is_ready": False}, taint(notices.UNREACHABLE)])
def test_a_host_that_does_not_answer_is_lost_once_its_agent_is_gone(fields: dict[str, Any]) -> None:
    hosts = {"host-0": host(0, **fields)}
    alive, gone = snapshot(pod(0), hosts=hosts), snapshot(pod(0), hosts=hosts, run=run())

    assert notices.loss(View(alive), pod(0)) is None
    assert notices.loss(View(gone), pod(0)) is not None
    assert entry_after(gone, 0).leaving == "Lost"


@pytest.mark.parametrize("seen", [None, run()], ids=["never read", "read before"])
def test_an_agent_is_not_taken_for_gone_while_the_rendezvous_cannot_be_read(seen: Any) -> None:
    silent = {"host-0": host(0, is_ready=None)}
    shot = snapshot(pod(0), hosts=silent, run=seen, store_trouble="away")

    assert notices.loss(View(shot), pod(0)) is None
    assert entry_after(shot, 0).leaving == ""
    assert reconcile(replace(shot, store_trouble="", run=run())).actions, "that it is gone is believed once it is read"
    for hosts in ({}, {"host-0": host(0, is_ready=None, **taint(notices.OUT_OF_SERVICE))}):
        assert notices.loss(View(replace(shot, hosts=hosts)), pod(0)) is not None, "of its host is nothing left"


def test_a_host_that_is_not_seen_yet_is_waited_for() -> None:
    bound = pod(0, conditions={"PodScheduled": Condition(type="PodScheduled", status=True, since_s=NOW_S - 5.0)})
    seen = snapshot(bound, hosts={}, run=run())

    assert entry_after(seen, 0).leaving == ""
    assert reconcile(seen).look_again_s == 25.0
    assert entry_after(replace(seen, now_s=NOW_S + 25.0), 0).leaving == "Lost"


def test_a_pod_without_a_host_hears_of_none() -> None:
    waiting = pod(0, host="")

    assert notices.loss(View(snapshot(waiting)), waiting) is None
    assert notices.notice(View(snapshot(waiting)), waiting) is None

"""A failure counts once, and only if nothing else explains the end of the pod."""

from dataclasses import replace
from typing import Any

import pytest

from harness.reconciling.jobs import job
from harness.reconciling.snapshots import NOW_S, entry_after, host, kinds, pod, run, snapshot, status_after, written
from holdfast_operator.api.v1alpha1.status import ElasticJobStatus, Failure
from holdfast_operator.api.v1alpha1.times import text_of
from holdfast_operator.reconcile.actions import CreatePod, DeletePod
from holdfast_operator.reconcile.deciding import reconcile
from holdfast_operator.reconcile.snapshot import Condition, ContainerEnd, PodPhase, PodView
from holdfast_operator.status.conditions import condition_of

TARGET = {"DisruptionTarget": Condition(type="DisruptionTarget", status=True, reason="TerminationByKubelet")}


def failed(exit_code: int = 1, *, reason: str = "Error", ago_s: float = 60.0, **fields: Any) -> PodView:
    end = ContainerEnd(exit_code=exit_code, reason=reason, message="why", finished_s=NOW_S - ago_s)
    return pod(0, phase=PodPhase.FAILED if exit_code else PodPhase.SUCCEEDED, end=end, **fields)


def failure(ago_s: float, uid: str) -> Failure:
    return Failure(pod="gpt-0", uid=uid, time=text_of(NOW_S - ago_s), reason="exit code 1")


@pytest.mark.parametrize("end", [failed(1), failed(137, reason="OOMKilled"), failed(143)])
def test_a_pod_that_ends_by_itself_and_not_well_has_failed(end: PodView) -> None:
    status = status_after(snapshot(end, run=run()))

    assert [(one.pod, one.uid) for one in status.failures] == [("gpt-0", "uid-0")]
    assert "why" in status.failures[0].reason
    assert status.disruptions.seen == 0
    again = snapshot(end, run=run(), status=status)
    assert status_after(again).failures == status.failures


@pytest.mark.parametrize(
    ("end", "fields"),
    [
        (failed(137, conditions=TARGET), {}),
        (failed(137, reason="ContainerStatusUnknown"), {}),
        (failed(137), {"hosts": {"host-0": host(0, is_ready=None)}}),
        (failed(137), {"hosts": {"host-0": host(0, is_unschedulable=True)}}),
        (failed(143, deleted_s=NOW_S - 30.0, grace_s=60.0), {}),
        (pod(0, phase=PodPhase.FAILED, reason="UnexpectedAdmissionError"), {}),
        (pod(0, phase=PodPhase.FAILED, reason="Evicted", end=ContainerEnd(exit_code=137, init="fetch")), {}),
        (failed(0), {}),
    ],
    ids=["target", "host was away", "host lost", "notice", "deleted", "refused by the host", "evicted", "left"],
)
def test_a_disruption_explains_an_end_and_is_no_failure(end: PodView, fields: dict[str, Any]) -> None:
    status = status_after(snapshot(end, **{"run": run()} | fields))

    assert status.failures == ()
    assert status.disruptions.seen == 1


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (pod(0, phase=PodPhase.FAILED), "ended before it ran"),
        (pod(0, phase=PodPhase.FAILED, reason="DeadlineExceeded", message="too slow"), "too slow"),
        (
            pod(0, phase=PodPhase.FAILED, end=ContainerEnd(exit_code=2, init="fetch", message="no such bucket")),
            "init container fetch: exit code 2: no such bucket",
        ),
    ],
    ids=["nothing said", "its own deadline", "init container"],
)
def test_a_pod_that_fails_before_its_agent_runs_has_failed_unless_its_host_took_it(end: PodView, words: str) -> None:
    for seen in (run(), None):
        status = status_after(snapshot(end, run=seen))

        assert [words in failure.reason for failure in status.failures] == [True]
        assert (status.disruptions.seen, status.finished_time) == (0, None), "an init container's code 2 is no verdict"


def test_what_explains_an_end_is_waited_for() -> None:
    seen = snapshot(failed(0, ago_s=1.0), run=run())

    assert entry_after(seen, 0).leaving == ""
    assert reconcile(seen).look_again_s == 4.0
    assert entry_after(replace(seen, now_s=NOW_S + 4.0), 0).leaving == "Left"


def test_a_failure_is_written_before_the_pod_goes_and_its_pod_stays_for_its_logs() -> None:
    decision = reconcile(snapshot(failed(1), run=run()))

    assert not any(isinstance(action, DeletePod) for action in decision.actions)
    assert kinds(decision.actions)[0] == "WriteStatus"


def test_pods_of_the_newest_three_failures_are_kept() -> None:
    pods = [replace(failed(1), name=f"gpt-{n}", uid=f"uid-{n}", index=n, host=f"host-{n}") for n in range(5)]
    status = status_after(snapshot(*pods, of=job(restart_policy={"max_failures": 9}), run=run()))
    decision = reconcile(snapshot(*pods, of=job(restart_policy={"max_failures": 9}), run=run(), status=status))

    assert [action.name for action in decision.actions if isinstance(action, DeletePod)] == ["gpt-0", "gpt-1"]


@pytest.mark.parametrize(("ago_s", "count"), [(4.0, 0), (6.0, 1)])
def test_a_replacement_waits_for_the_back_off(ago_s: float, count: int) -> None:
    of, status = job(nodes={"min": 1, "max": 1}), ElasticJobStatus(failures=(failure(ago_s, "old"),))

    decision = reconcile(snapshot(of=of, status=status, run=run()))

    assert sum(isinstance(action, CreatePod) for action in decision.actions) == count


def test_the_back_off_doubles_and_has_a_bound() -> None:
    of = job(nodes={"min": 1, "max": 1}, restart_policy={"max_failures": 50, "backoff": 5.0, "backoff_max": 40.0})
    waits = []
    for count in range(1, 7):
        failures = tuple(failure(1000.0 if n < count - 1 else 0.0, f"uid-{n}") for n in range(count))
        waits.append(reconcile(snapshot(of=of, status=ElasticJobStatus(failures=failures), run=run())).look_again_s)

    assert waits == [5.0, 10.0, 20.0, 40.0, 40.0, 40.0]


def test_a_failure_outside_the_window_is_forgotten() -> None:
    failures = (failure(3601.0, "old"), failure(3000.0, "newer"))
    decision = reconcile(snapshot(pod(0), status=ElasticJobStatus(failures=failures)))
    status = written(decision)

    assert status is not None
    assert [one.uid for one in status.failures] == ["newer"]
    assert decision.look_again_s is not None
    assert decision.look_again_s <= 600.0


def test_failures_that_are_made_good_are_not_told_as_trouble() -> None:
    status = ElasticJobStatus(failures=(failure(60.0, "old"),))
    good, short = snapshot(pod(0), status=status), snapshot(pod(0), status=status, run=run())

    told = [condition_of(status_after(shot).conditions, "Degraded") for shot in (good, short)]
    assert [condition.reason for condition in told if condition is not None] == ["AsWanted", "PodsFail"]


def test_of_a_disruption_the_replacement_does_not_wait() -> None:
    hosts = {"host-0": host(0, is_unschedulable=True)}
    decision = reconcile(snapshot(pod(0), hosts=hosts))

    assert [action.name for action in decision.actions if isinstance(action, CreatePod)] == ["gpt-1"]

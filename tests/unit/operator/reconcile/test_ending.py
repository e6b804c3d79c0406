"""How a job ends, and what is told of it."""

from dataclasses import replace
from typing import Any

import pytest

from harness.reconciling.jobs import job
from harness.reconciling.snapshots import NOW_S, entry, kinds, pod, run, snapshot, status_after
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.records import FailureRecord, OutcomeRecord, Result
from holdfast.telemetry.run_state import RunState
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJob
from holdfast_operator.api.v1alpha1.status import ElasticJobStatus, Failure, StatusCondition
from holdfast_operator.api.v1alpha1.times import text_of
from holdfast_operator.reconcile.actions import CreatePod, DeleteJob, DeletePod, DrainNode
from holdfast_operator.reconcile.deciding import reconcile
from holdfast_operator.reconcile.snapshot import Condition, ContainerEnd, PodPhase, RunSnapshot, Snapshot
from holdfast_operator.status.conditions import condition_of

UNSCHEDULABLE = {
    "PodScheduled": Condition(
        type="PodScheduled",
        status=False,
        reason="Unschedulable",
        message="0/3 nodes are available",
        since_s=NOW_S - 60.0,
    )
}


def ended(shot: Snapshot, kind: str) -> StatusCondition:
    status = status_after(shot)
    condition = condition_of(status.conditions, kind)
    assert condition is not None
    assert condition.status == "True", status.conditions
    assert status.finished_time == text_of(NOW_S)
    return condition


def outcome(result: Result, failure: FailureRecord | None = None) -> OutcomeRecord:
    return OutcomeRecord(result=result, reason="because", step=7, failure=failure)


@pytest.mark.parametrize(
    ("result", "kind", "reason"),
    [
        (Result.COMPLETED, "Complete", "Completed"),
        (Result.STOPPED, "Complete", "Stopped"),
        (Result.FAILED, "Failed", "JobFailed"),
    ],
)
def test_the_rendezvous_outcome_decides(result: Result, kind: str, reason: str) -> None:
    condition = ended(snapshot(pod(0), run=run(0, outcome=outcome(result))), kind)

    assert condition.reason == reason
    assert "7" in condition.message


def test_a_failed_job_shows_the_users_traceback() -> None:
    failure = FailureRecord(
        slot=SlotId(NodeId("gpt-0"), 0), step=6, where="layer 2", traceback="ZeroDivisionError: here"
    )
    condition = ended(snapshot(pod(0), run=run(0, outcome=outcome(Result.FAILED, failure))), "Failed")

    assert "because" in condition.message
    assert "ZeroDivisionError: here" in condition.message


WORDS = "spec: steps: 0 given; should be at least 1"
REFUSING = pod(0, phase=PodPhase.FAILED, end=ContainerEnd(exit_code=2, message=WORDS, finished_s=NOW_S))


@pytest.mark.parametrize("seen", [None, run(state=RunState.STARTING, step=0)], ids=["not submitted", "nobody joined"])
def test_a_wrong_input_fails_a_job_that_nobody_could_begin(seen: RunSnapshot | None) -> None:
    condition = ended(snapshot(REFUSING, pod(1), run=seen), "Failed")

    assert condition.reason == "WrongInput"
    assert WORDS in condition.message


@pytest.mark.parametrize(
    "fields",
    [
        {"run": run(1)},
        {"run": run(state=RunState.HOLDING)},
        {"run": run(1, state=RunState.STARTING, step=0)},
        {"run": None, "store_trouble": "away"},
    ],
    ids=["trains", "has trained", "another joined", "unknown"],
)
def test_one_pod_that_refuses_its_input_does_not_fail_a_job_that_others_could_begin(fields: dict[str, Any]) -> None:
    shot = snapshot(REFUSING, pod(1), **fields)
    status = status_after(shot)

    assert status.finished_time is None
    assert [failure.uid for failure in status.failures] == ["uid-0"]
    assert any(isinstance(action, CreatePod) for action in reconcile(shot).actions) is False, "it backs off"
    degraded = condition_of(status.conditions, "Degraded")
    assert degraded is not None
    if "store_trouble" not in fields:
        assert degraded.reason == "WrongInput"
        assert WORDS in degraded.message


def test_nodes_of_a_job_that_failed_are_let_go() -> None:
    failures = tuple(Failure(pod="gpt-0", uid=str(n), time=text_of(NOW_S), reason="OOMKilled") for n in range(4))
    held = ElasticJobStatus(failures=failures, ledger=(entry(0),), observed_generation=1)

    told = [action for action in reconcile(snapshot(pod(0), status=held)).actions if isinstance(action, DrainNode)]
    assert [(action.node, action.grace_s) for action in told] == [("gpt-0", 25.0)]


@pytest.mark.parametrize(("count", "fails"), [(3, False), (4, True)])
def test_more_failures_than_allowed_fail_the_job(count: int, fails: bool) -> None:
    failures = tuple(
        Failure(pod="gpt-0", uid=str(n), time=text_of(NOW_S - 9.0), reason="OOMKilled") for n in range(count)
    )
    shot = snapshot(pod(0), status=ElasticJobStatus(failures=failures))

    condition = condition_of(status_after(shot).conditions, "Failed")
    assert condition is not None
    assert (condition.status, condition.reason) == (("True", "TooManyFailures") if fails else ("False", "NotOver"))
    assert ("OOMKilled" in condition.message) is fails


def started_at(at_s: float) -> ElasticJobStatus:
    active = StatusCondition(
        type="Suspended", status="False", reason="NotSuspended", message="", last_transition_time=text_of(at_s)
    )
    return ElasticJobStatus(conditions=(active,), observed_generation=1)


def late(of: ElasticJob, ago_s: float, **fields: Any) -> Snapshot:
    waiting = pod(0, phase=PodPhase.PENDING, host="", conditions=UNSCHEDULABLE)
    return snapshot(waiting, of=of, status=started_at(NOW_S - ago_s), **fields)


def test_a_job_that_does_not_start_in_time_fails_with_the_reason() -> None:
    of = job(nodes={"min": 1, "max": 1}, start_deadline_seconds=100)
    early = late(of, 90.0, run=None)
    assert reconcile(early).look_again_s == 10.0
    shot = replace(late(of, 90.0, run=None), now_s=NOW_S + 10.0)
    shot = replace(shot, job=shot.job.model_copy(update={"status": status_after(early)}))

    status = status_after(shot)
    condition = condition_of(status.conditions, "Failed")
    assert condition is not None
    assert condition.reason == "StartDeadlineExceeded"
    assert "0/3 nodes are available" in condition.message
    assert any(isinstance(action, DeletePod) for action in reconcile(shot).actions), "it waits for nothing any more"


def test_a_job_that_has_trained_is_not_held_to_the_start_deadline() -> None:
    of = job(nodes={"min": 1, "max": 1}, start_deadline_seconds=100)

    assert status_after(late(of, 200.0, run=run(state=RunState.HOLDING))).finished_time is None


def test_a_job_that_is_not_over_in_time_fails() -> None:
    of = job(nodes={"min": 1, "max": 1}, active_deadline_seconds=100)
    shot = snapshot(pod(0), of=of, status=started_at(NOW_S - 100.0))

    assert ended(shot, "Failed").reason == "ActiveDeadlineExceeded"


def test_while_a_job_is_suspended_no_deadline_runs() -> None:
    of = job(nodes={"min": 1, "max": 1}, active_deadline_seconds=100, start_deadline_seconds=50, suspend=True)

    assert status_after(snapshot(of=of, status=started_at(NOW_S - 500.0), run=None)).finished_time is None


def over(ago_s: float) -> ElasticJobStatus:
    return ElasticJobStatus(finished_time=text_of(NOW_S - ago_s), observed_generation=1)


def test_a_job_that_is_over_is_deleted_after_its_time() -> None:
    of = job(ttl_seconds_after_finished=60)
    before = reconcile(snapshot(of=of, status=over(50.0)))
    after = reconcile(snapshot(of=of, status=over(60.0)))

    assert before.look_again_s == 10.0
    assert after.actions[-1:] == (DeleteJob(uid=of.metadata.uid),)
    assert not any(isinstance(action, DeleteJob) for action in before.actions)
    assert not any(isinstance(action, DeleteJob) for action in reconcile(snapshot(of=job(), status=over(1e6))).actions)


def test_a_job_that_is_over_has_no_pods_made_although_some_fail() -> None:
    end = ContainerEnd(exit_code=1, finished_s=NOW_S - 60.0)
    done = run(outcome=outcome(Result.COMPLETED), state=RunState.FINISHED)
    decision = reconcile(snapshot(pod(0, phase=PodPhase.FAILED, end=end), run=done))

    assert not any(isinstance(action, CreatePod) for action in decision.actions)
    assert kinds(decision.actions) == ["WriteStatus", "TellEvent"]

"""What is done first, what not at all, and what is told of it."""

from dataclasses import replace
from typing import Any

import pytest

from harness.reconciling.jobs import job
from harness.reconciling.snapshots import NOW_S, host, kinds, pod, run, snapshot, status_after, written
from holdfast.telemetry.run_state import RunState
from holdfast_operator.api.v1alpha1 import names
from holdfast_operator.api.v1alpha1.status import CheckpointStatus, ElasticJobStatus
from holdfast_operator.api.v1alpha1.times import text_of
from holdfast_operator.reconcile.actions import ApplyConfig, TellEvent
from holdfast_operator.reconcile.deciding import reconcile
from holdfast_operator.reconcile.pods import pod_manifest
from holdfast_operator.reconcile.snapshot import Condition, PodPhase, PodView, RunCheckpoint, Snapshot
from holdfast_operator.status.conditions import condition_of

UNSCHEDULABLE = {
    "PodScheduled": Condition(type="PodScheduled", status=False, reason="Unschedulable", message="0/3 nodes")
}


def new_job(**fields: Any) -> Snapshot:
    return snapshot(of=job(nodes={"min": 1, "max": 2}), run=None, has_secret=False, config=None, **fields)


def test_what_pods_mount_is_made_before_them_and_what_is_meant_is_written_before_it_is_done() -> None:
    decision = reconcile(new_job())

    assert kinds(decision.actions) == ["CreateSecret", "ApplyConfig", "WriteStatus", "CreatePod", "CreatePod"]
    assert decision == reconcile(new_job())


@pytest.mark.parametrize(
    "shot",
    [
        snapshot(pod(0), of=job(managed_by="kueue.x-k8s.io/multikueue")),
        snapshot(
            pod(0), of=job().model_copy(update={"metadata": job().metadata.model_copy(update={"deleted_s": 1.0})})
        ),
    ],
    ids=["another's", "deleted"],
)
def test_a_job_that_is_not_ours_or_goes_is_left_alone(shot: Snapshot) -> None:
    decision = reconcile(shot)

    assert (decision.actions, decision.look_again_s) == ((), None)


def test_a_job_that_names_this_operator_is_ours() -> None:
    assert reconcile(snapshot(of=job(managed_by=names.OPERATOR), run=None)).actions


def test_a_config_that_differs_is_written_again_when_the_spec_changes() -> None:
    of = job(nodes={"min": 1, "max": 1})
    changed = of.model_copy(update={"metadata": of.metadata.model_copy(update={"generation": 2})})

    actions = reconcile(snapshot(pod(0), of=changed)).actions

    config = next(action for action in actions if isinstance(action, ApplyConfig))
    assert names.job_id("gpt", of.metadata.uid) in config.spec


def test_a_job_with_a_command_has_no_config() -> None:
    of = job(program=None, steps=None, command=["./run.sh"])

    assert "ApplyConfig" not in kinds(reconcile(snapshot(of=of, run=None, config=None)).actions)


def stuck(reason: str, message: str) -> PodView:
    return pod(0, phase=PodPhase.PENDING, waiting=reason, waiting_message=message)


@pytest.mark.parametrize(
    ("fields", "pods", "reason", "words"),
    [
        ({}, (stuck("ErrImagePull", "no such image"),), "ImagePullBackOff", "no such image"),
        ({}, (stuck("CreateContainerConfigError", "no secret"),), "CreateContainerConfigError", "no secret"),
        ({}, (pod(0, phase=PodPhase.PENDING, host="", conditions=UNSCHEDULABLE),), "Unschedulable", "0/3 nodes"),
        ({"refusals": {"Pod/gpt-0": "exceeded quota"}}, (), "Refused", "Pod/gpt-0: exceeded quota"),
        ({"store_trouble": "no route"}, (), "StoreUnreachable", "no route"),
    ],
)
def test_what_keeps_a_job_from_starting_is_its_conditions_reason(
    fields: dict[str, Any], pods: Any, reason: str, words: str
) -> None:
    status = status_after(snapshot(*pods, of=job(), run=None, **fields))

    for kind, truth in (("Running", "False"), ("Degraded", "True")):
        condition = condition_of(status.conditions, kind)
        assert condition is not None
        assert (condition.status, condition.reason) == (truth, reason)
        assert words in condition.message


def test_a_gated_pod_is_not_unschedulable() -> None:
    gated = {"PodScheduled": Condition(type="PodScheduled", status=False, reason="SchedulingGated")}
    status = status_after(snapshot(pod(0, phase=PodPhase.PENDING, host="", conditions=gated), run=None))

    running = condition_of(status.conditions, "Running")
    assert running is not None
    assert running.reason == "Starting"


def test_a_host_that_does_not_answer_while_its_agent_does_is_told_of() -> None:
    status = status_after(snapshot(pod(0), hosts={"host-0": host(0, is_ready=None)}))

    degraded = condition_of(status.conditions, "Degraded")
    assert degraded is not None
    assert degraded.reason == "HostNotReady"


def test_the_rendezvous_away_leaves_it_unknown_whether_a_job_that_trained_does() -> None:
    before = status_after(snapshot(pod(0)))
    status = status_after(snapshot(pod(0), status=before, store_trouble="no route", run=None))

    running = condition_of(status.conditions, "Running")
    assert running is not None
    assert running.status == "Unknown"
    assert (status.step, status.layout) == (7, "1x1"), "what was seen last stays told"


def test_the_status_shows_what_the_rendezvous_shows() -> None:
    checkpoint = RunCheckpoint(step=5, url="s3://bucket/gpt/5", time_s=NOW_S - 3.0)
    status = status_after(snapshot(pod(0), pod(1), run=run(0, 1, checkpoint=checkpoint, recoveries=2)))

    assert (status.generation, status.layout, status.step, status.steps, status.progress) == (3, "1x1", 7, 100, "7/100")
    assert (status.samples_per_second, status.goodput, status.recoveries) == ("123", "98.7%", 2)
    assert status.checkpoint == CheckpointStatus(step=5, url="s3://bucket/gpt/5", time=text_of(NOW_S - 3.0))
    assert (status.nodes.desired, status.nodes.ready, status.nodes.draining) == (2, 2, 0)
    assert (status.replicas, status.selector) == (2, "holdfast.dev/job=gpt")
    assert (status.phase, status.started_time, status.observed_generation) == ("Running", text_of(NOW_S), 1)


def test_a_node_that_drains_is_counted_as_one_that_drains() -> None:
    status = status_after(snapshot(pod(0), pod(1), hosts={"host-0": host(0), "host-1": host(1, is_unschedulable=True)}))

    assert (status.nodes.ready, status.nodes.draining, status.replicas) == (1, 1, 2)


@pytest.mark.parametrize("every_s", [10.0, 30.0])
def test_steps_alone_are_written_as_seldom_as_the_operator_is_told_to_and_news_at_once(every_s: float) -> None:
    before = status_after(snapshot(pod(0)))

    def after(seconds: float, **fields: Any) -> ElasticJobStatus | None:
        shot = snapshot(pod(0), status=before, run=run(0, **{"step": 8} | fields))
        return written(reconcile(replace(shot, now_s=NOW_S + seconds, progress_s=every_s)))

    assert after(every_s - 1.0) is None
    assert after(every_s) is not None
    news = after(1.0, state=RunState.RESHAPING)
    assert news is not None
    assert news.step == 8


def test_an_event_is_told_when_its_news_is_written_and_not_again() -> None:
    shot = snapshot(pod(0), hosts={"host-0": host(0, is_unschedulable=True)})
    decision = reconcile(shot)
    told = [action for action in decision.actions if isinstance(action, TellEvent)]
    status = written(decision)
    again = reconcile(replace(shot, job=shot.job.model_copy(update={"status": status})))

    assert ("NodeLeaves", "Normal") in [(event.reason, event.type) for event in told]
    assert any("gpt-0" in event.message for event in told)
    assert "TellEvent" not in kinds(again.actions)


def test_pods_of_an_earlier_template_are_told_of_and_left_alone() -> None:
    of = job(nodes={"min": 1, "max": 2})
    held = pod_manifest(of, 0)["metadata"]["annotations"][names.ANNOTATION_HASH]
    pods = [pod(n, manifest_hash=held) for n in (0, 1)]
    changed = job(nodes={"min": 1, "max": 2}, template={"spec": {"containers": [{"name": "holdfast", "image": "v2"}]}})

    same, old = (condition_of(status_after(snapshot(*pods, of=each)).conditions, "Degraded") for each in (of, changed))
    assert same is not None
    assert old is not None
    assert same.reason == "AsWanted"
    assert old.reason == "OldTemplate"
    assert "2 pods" in old.message
    assert "DeletePod" not in kinds(reconcile(snapshot(*pods, of=changed)).actions)

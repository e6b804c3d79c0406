"""From objects to jobs and back: defaults, what is told of wrong ones, a status of another version."""

from typing import Any

import pytest

from holdfast_operator.api.v1alpha1.parse import parse_job, parse_status
from holdfast_operator.api.v1alpha1.problems import InvalidJobError
from holdfast_operator.api.v1alpha1.status import CheckpointStatus, ElasticJobStatus, NodeCounts, StatusCondition
from kube.corpus import BASE, CORPUS, Wrong, merged
from unit.operator.api.conftest import STORED, parse


def told(manifest: dict[str, Any], **spec: Any) -> str:
    with pytest.raises(InvalidJobError) as refusal:
        parse(manifest, **spec)
    return str(refusal.value)


def test_what_is_left_out_has_its_default() -> None:
    job = parse(BASE)

    assert job.metadata.created_s == 1795283472
    assert job.metadata.deleted_s is None
    assert job.spec.slots_per_node == 1
    assert job.spec.timeouts.orphan == 600
    assert "karpenter.sh/disrupted" in job.spec.preemption.notice_taints
    assert job.status == ElasticJobStatus()


def test_a_section_left_empty_is_one_left_out() -> None:
    raw = merged(BASE, STORED)
    raw["spec"] |= {"timeouts": None, "layout": {"depth": None}}

    assert parse_job(raw) == parse(BASE)


def test_the_template_is_passed_on_as_it_was_written() -> None:
    template = {
        "metadata": {"labels": {"a": "b"}, "generateName": "x"},
        "spec": {"containers": [{"name": "holdfast", "image": "worker", "envFrom": [{}]}], "nodeSelector": {"a": "b"}},
    }

    assert parse(BASE, template=template).spec.template == template


@pytest.mark.parametrize(
    "wrong", [wrong for wrong in CORPUS if wrong.by in {"schema", "strict", "rule"}], ids=lambda wrong: wrong.name
)
def test_what_the_api_server_would_refuse_is_refused_here_under_the_same_field(wrong: Wrong) -> None:
    with pytest.raises(InvalidJobError) as refusal:
        parse(wrong.manifest())

    assert wrong.field in [problem.field for problem in refusal.value.problems]
    if wrong.by == "rule":
        assert wrong.words in str(refusal.value)


def test_every_wrong_field_is_told_with_its_value_and_what_would_be_right() -> None:
    assert told(BASE, steps="many", nodes={"mx": 4}, timeouts={"probe": -1}).splitlines() == [
        "spec.steps: 'many' given; should be a valid integer (optimizer steps to commit; with program)",
        "spec.nodes.mx: 4 given; there is no such field; did you mean spec.nodes.max?",
        "spec.timeouts.probe: -1 given; should be greater than 0 (a suspected node must answer within this)",
    ]


def test_an_object_of_another_kind_is_refused() -> None:
    assert told(BASE | {"kind": "Job", "apiVersion": "batch/v1"}).splitlines() == [
        "apiVersion: 'batch/v1' given; should be holdfast.dev/v1alpha1",
        "kind: 'Job' given; should be ElasticJob",
    ]


def test_metadata_is_told_of_by_its_own_names() -> None:
    with pytest.raises(InvalidJobError, match=r"metadata\.uid: is missing\nmetadata\.creationTimestamp: is missing"):
        parse_job(BASE)
    with pytest.raises(InvalidJobError, match=r"metadata\.creationTimestamp: 'now' given; should be a time"):
        parse_job(merged(BASE, {"metadata": {"creationTimestamp": "now"}}))


def test_a_status_is_read_back_as_it_was_written() -> None:
    status = ElasticJobStatus(
        observed_generation=3,
        phase="Running",
        conditions=(
            StatusCondition(
                type="Running",
                status="True",
                reason="Training",
                message="step 3",
                last_transition_time="2026-11-21T17:51:12Z",
            ),
        ),
        nodes=NodeCounts(desired=4, ready=3, draining=1),
        layout="2x3+1x2",
        checkpoint=CheckpointStatus(step=3, url="s3://bucket/job", time="2026-11-21T17:51:12Z"),
    )

    assert parse_status(status.model_dump(mode="json", by_alias=True)) == status


def test_of_a_status_that_another_version_wrote_what_is_known_is_kept() -> None:
    status = parse_status(
        {"phase": "Running", "mood": "fine", "nodes": {"ready": 2, "asleep": 1}, "conditions": [{"type": 3}], "step": 7}
    )

    assert status == ElasticJobStatus(phase="Running", nodes=NodeCounts(ready=2), step=7)

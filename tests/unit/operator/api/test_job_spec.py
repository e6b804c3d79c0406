"""The runtime's job spec, as the operator makes it: true to the job, and refused under the names of its manifest."""

from pathlib import Path
from typing import Any

import pytest

from holdfast.spec import JobSpec, load_spec
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJob
from holdfast_operator.api.v1alpha1.job_spec import FIELDS, job_spec_yaml
from holdfast_operator.api.v1alpha1.problems import InvalidJobError
from kube.corpus import BASE
from unit.operator.api.conftest import parse

# Of the runtime's spec, what the API does not offer: an operator's cluster needs none of it, or sets it otherwise.
NOT_OFFERED = {
    "name",
    "timeouts.join_settle_s",
    "failures.worker_deaths_per_step",
    "failures.node_losses",
    "snapshots.overhead",
    "snapshots.bandwidth_bytes",
    "checkpoints.upload_s",
    "checkpoints.away_s",
}


def as_read(job: ElasticJob, folder: Path) -> JobSpec:
    """As an agent reads it."""
    text = job_spec_yaml(job)
    assert text is not None
    path = folder / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    return load_spec(path)


def leaves(model: Any, path: str = "") -> set[str]:
    """Every field of the runtime's spec that is no section."""
    found = set()
    for name, field in model.model_fields.items():
        below = field.annotation
        if hasattr(below, "model_fields"):
            found |= leaves(below, f"{path}{name}.")
        else:
            found.add(path + name)
    return found


def test_all_that_the_runtime_can_be_told_is_offered_or_left_out_with_intent() -> None:
    assert set(FIELDS.values()) | NOT_OFFERED == leaves(JobSpec)


def test_every_field_arrives(tmp_path: Path) -> None:
    job = parse(
        BASE,
        batch={"size": 48, "microbatch": 6, "block": 2},
        reduction="allreduce",
        device="cuda",
        slotsPerNode=8,
        layout={"depth": 2, "memoryPerSlot": "8GiB", "adaptive": False},
        timeouts={"leaseTtl": 9, "probe": 1, "abort": 2, "progress": 3, "start": 4, "startSettle": 5, "orphan": 60},
        preemption={"notice": 110},
        state={
            "url": "s3://bucket/job",
            "copies": 2,
            "snapshotEvery": 7,
            "checkpointEvery": 50,
            "keepLast": 4,
            "keepEvery": 1000,
        },
    )

    assert as_read(job, tmp_path).model_dump(exclude_unset=True) == {
        "name": "wrong-f544fef4",
        "program": {"entry": "examples/gpt/gpt.py:program", "params": {"width": 96, "sizes": {"heads": 4}}},
        "steps": 40,
        "batch": {"size": 48, "microbatch": 6},
        "block": 2,
        "reduction": "allreduce",
        "device": "cuda",
        "nodes": {"min": 2, "max": 4, "desired": 3},
        "slots_per_node": 8,
        "layout": {"depth": 2, "memory_per_slot_bytes": 8 * 2**30, "adaptive": False},
        "timeouts": {
            "lease_ttl_s": 9,
            "probe_s": 1,
            "abort_s": 2,
            "progress_s": 3,
            "start_s": 4,
            "start_settle_s": 5,
            "orphan_s": 60,
            "drain_s": 110,
        },
        "snapshots": {"copies": 2, "every": 7},
        "checkpoints": {"url": "s3://bucket/job", "every": 50, "keep_last": 4, "keep_every": 1000},
    }


def test_without_a_wish_it_wants_as_many_nodes_as_it_may_have(tmp_path: Path) -> None:
    assert as_read(parse(BASE, nodes={"desired": None}), tmp_path).nodes.desired == 4


def test_a_command_submits_its_job_itself() -> None:
    assert job_spec_yaml(parse(BASE, program=None, steps=None, command=["python", "train.py"])) is None


@pytest.mark.parametrize("value", ["1e-3", "yes", "null", "0x10", "2026-11-21", "~", "", "é\U0001f600\x7f\x85", "a: b"])
def test_a_text_stays_a_text(value: str, tmp_path: Path) -> None:
    job = parse(BASE, program={"params": {"value": value, "list": [value], value: 1}})

    params = as_read(job, tmp_path).program.params
    assert (params["value"], params["list"], params[value]) == (value, [value], 1)


@pytest.mark.parametrize("value", [1, 1.5, 1e-10, -3e300, 2**60, True, False, None, [[]], {"a": {}}])
def test_a_number_stays_that_number(value: Any, tmp_path: Path) -> None:
    raw = parse(BASE).model_copy()
    program = raw.spec.program.model_copy(update={"params": {"value": value}}) if raw.spec.program else None
    job = raw.model_copy(update={"spec": raw.spec.model_copy(update={"program": program})})

    (arrived,) = as_read(job, tmp_path).program.params.values()
    assert (arrived, type(arrived)) == (value, type(value))


def test_what_only_the_runtime_refuses_is_told_by_the_field_of_the_manifest() -> None:
    job = parse(BASE)
    # As no schema lets it through: sizes that the runtime cannot read.
    layout = job.spec.layout.model_copy(update={"memory_per_slot": "lots"})
    spec = job.spec.model_copy(update={"layout": layout})

    with pytest.raises(InvalidJobError) as refusal:
        job_spec_yaml(job.model_copy(update={"spec": spec}))
    assert str(refusal.value) == (
        "spec.layout.memoryPerSlot: 'lots' given; should be a number of bytes, such as 8GiB, 512MiB or 8589934592"
        " (that a slot may use, such as 8GiB)"
    )

"""The five conditions are always there, tell one story, and keep the time of what does not change."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.telemetry.run_state import RunState
from holdfast_operator.api.v1alpha1.elastic_job import Metadata
from holdfast_operator.api.v1alpha1.status import ElasticJobStatus, NodeCounts, NodeEntry, StatusCondition
from holdfast_operator.api.v1alpha1.times import text_of
from holdfast_operator.status.conditions import TYPES, condition_of, conditions, is_true
from holdfast_operator.status.facts import Facts, Trouble, Verdict
from holdfast_operator.status.invalid import invalid_status
from holdfast_operator.status.phase import phase

PHASES = {"Complete", "Failed", "Suspended", "Suspending", "Running", "Finishing", "Reshaping", "Waiting"}
PHASES |= {"Unknown", "Pending"}
TROUBLE = Trouble(reason="Unschedulable", message="no room")
WELL = Verdict(succeeded=True, reason="Completed", message="all steps")


def facts(**fields: Any) -> Facts:
    """Of a job that trains on all its nodes."""
    known: dict[str, Any] = {
        "now_s": 1_000_000.0,
        "generation": 1,
        "stage": "Active",
        "verdict": None,
        "state": RunState.TRAINING,
        "store_trouble": "",
        "has_trained": True,
        "step": 7,
        "saved_step": 7,
        "nodes_min": 2,
        "wanted": 4,
        "ready": 4,
        "troubles": (),
    }
    return Facts(**known | fields)


def told(kind: str, **fields: Any) -> tuple[str, str]:
    condition = condition_of(conditions(facts(**fields), ()), kind)
    assert condition is not None
    return condition.status, condition.reason


ANY = st.builds(
    facts,
    stage=st.sampled_from(["Active", "Suspending", "Suspended", "Over"]),
    verdict=st.sampled_from([None, WELL, Verdict(succeeded=False, reason="WrongInput", message="no")]),
    state=st.sampled_from([None, *RunState]),
    store_trouble=st.sampled_from(["", "away"]),
    has_trained=st.booleans(),
    step=st.integers(0, 2),
    saved_step=st.sampled_from([None, 0, 1, 2]),
    ready=st.integers(0, 4),
    troubles=st.sampled_from([(), (TROUBLE,)]),
)


@given(ANY, ANY)
def test_they_tell_one_story_whatever_is_so(first: Facts, second: Facts) -> None:
    before = conditions(first, ())
    after = conditions(second, before)

    assert tuple(condition.type for condition in after) == TYPES
    ends = [is_true(after, kind) for kind in ("Running", "Suspended", "Complete", "Failed")]
    assert sum(ends) <= 1
    assert all(condition.reason and condition.message for condition in after)
    assert phase(after) in PHASES
    assert conditions(second, after) == after


@pytest.mark.parametrize(
    ("fields", "running"),
    [
        ({}, ("True", "Training")),
        ({"state": RunState.RESHAPING}, ("True", "Reshaping")),
        ({"state": RunState.FINISHED}, ("True", "Finishing")),
        ({"state": RunState.HOLDING, "ready": 1}, ("False", "WaitingForNodes")),
        ({"state": RunState.HOLDING, "ready": 1, "troubles": (TROUBLE,)}, ("False", "Unschedulable")),
        ({"state": None, "ready": 0, "has_trained": False}, ("False", "Starting")),
        ({"store_trouble": "away"}, ("Unknown", "StoreUnreachable")),
        ({"stage": "Suspended"}, ("False", "Suspended")),
        ({"stage": "Over", "verdict": WELL}, ("False", "Over")),
    ],
)
def test_whether_it_runs_and_why_not(fields: dict[str, Any], running: tuple[str, str]) -> None:
    assert told("Running", **fields) == running


@pytest.mark.parametrize(
    ("fields", "degraded"),
    [
        ({}, ("False", "AsWanted")),
        ({"ready": 3}, ("True", "FewerNodes")),
        ({"ready": 0, "has_trained": False, "state": None}, ("False", "AsWanted")),
        ({"troubles": (TROUBLE,)}, ("True", "Unschedulable")),
        ({"stage": "Suspended", "ready": 0}, ("False", "Suspended")),
    ],
)
def test_whether_it_has_what_it_wants(fields: dict[str, Any], degraded: tuple[str, str]) -> None:
    assert told("Degraded", **fields) == degraded


def test_the_end_stays_told_as_it_was() -> None:
    ended = conditions(facts(stage="Over", verdict=WELL), ())
    later = conditions(facts(stage="Over", now_s=2_000_000.0), ended)

    assert later == ended


def test_a_condition_has_the_time_at_which_its_truth_changed() -> None:
    before = conditions(facts(), ())
    reshaping = conditions(facts(now_s=1_000_010.0, state=RunState.RESHAPING), before)
    holding = conditions(facts(now_s=1_000_020.0, state=RunState.HOLDING, ready=1), reshaping)
    times = [condition_of(each, "Running") for each in (before, reshaping, holding)]

    assert [c.last_transition_time for c in times if c is not None] == [
        text_of(1_000_000.0),
        text_of(1_000_000.0),
        text_of(1_000_020.0),
    ]


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({}, "Running"),
        ({"state": RunState.RESHAPING}, "Reshaping"),
        ({"state": RunState.HOLDING, "ready": 1}, "Waiting"),
        ({"state": RunState.STARTING, "ready": 1}, "Pending"),
        ({"store_trouble": "away"}, "Unknown"),
        ({"stage": "Suspending"}, "Suspending"),
        ({"stage": "Suspending", "saved_step": 6}, "Suspending"),
        ({"stage": "Suspended"}, "Suspended"),
        ({"stage": "Over", "verdict": WELL}, "Complete"),
    ],
)
def test_the_phase_is_one_word_of_the_conditions(fields: dict[str, Any], word: str) -> None:
    assert phase(conditions(facts(**fields), ())) == word


@pytest.mark.parametrize(
    ("stage", "step", "saved", "reason", "words"),
    [
        ("Suspending", 7, None, "SuspendWaits", "the checkpoint of step 7 is not written: there is none yet"),
        ("Suspending", 7, 6, "SuspendWaits", "the checkpoint of step 7 is not written: the newest is of step 6"),
        ("Suspending", 7, 7, "Suspending", "lies in state.url"),
        ("Suspending", 0, None, "Suspending", "the nodes leave"),
        ("Suspended", 7, 7, "Suspended", "what was trained lies in state.url"),
        ("Suspended", 7, 6, "Suspended", "7 steps were trained, and the newest checkpoint is of step 6"),
        ("Suspended", 7, None, "Suspended", "7 steps were trained, and no checkpoint is known"),
        ("Suspended", 0, None, "Suspended", "no step was trained"),
    ],
)
def test_what_was_trained_is_said_to_be_saved_only_once_it_is(
    stage: str, step: int, saved: int | None, reason: str, words: str
) -> None:
    condition = condition_of(conditions(facts(stage=stage, step=step, saved_step=saved), ()), "Suspended")

    assert condition is not None
    assert condition.reason == reason
    assert words in condition.message
    assert ("lies in state.url" in condition.message) is (step > 0 and saved == step)


def test_a_spec_that_cannot_be_read_is_told_and_nothing_else_changes() -> None:
    metadata = Metadata(name="gpt", namespace="ml", uid="1", generation=4, created_s=1.0)
    before = ElasticJobStatus(step=7, conditions=conditions(facts(), ()))
    after = invalid_status(metadata, before, "spec.nodes.max: missing", 1_000_050.0)

    running: StatusCondition | None = condition_of(after.conditions, "Running")
    assert running is not None
    assert (running.status, running.reason, running.message) == ("False", "InvalidSpec", "spec.nodes.max: missing")
    assert (after.step, after.observed_generation, after.phase) == (7, 4, "Pending")
    assert invalid_status(metadata, after, "spec.nodes.max: missing", 1_000_060.0) == after
    over = before.model_copy(update={"finished_time": text_of(1.0)})
    assert invalid_status(metadata, over, "spec.nodes.max: missing", 1_000_050.0) == over


def test_of_a_job_that_has_pods_what_was_told_stays_told_when_its_spec_cannot_be_read() -> None:
    metadata = Metadata(name="gpt", namespace="ml", uid="1", generation=4, created_s=1.0)
    before = ElasticJobStatus(
        phase="Running",
        step=7,
        nodes=NodeCounts(desired=4, wanted=4, ready=4),
        conditions=conditions(facts(), ()),
        ledger=(NodeEntry(index=0, uid="uid-0", joined=True),),
    )
    after = invalid_status(metadata, before, "spec.nodes.max: missing", 1_000_050.0)

    degraded = condition_of(after.conditions, "Degraded")
    assert degraded is not None
    assert (degraded.status, degraded.reason, degraded.message) == ("True", "InvalidSpec", "spec.nodes.max: missing")
    assert condition_of(after.conditions, "Running") == condition_of(before.conditions, "Running")
    assert (after.phase, after.nodes, after.ledger) == ("Running", before.nodes, before.ledger)

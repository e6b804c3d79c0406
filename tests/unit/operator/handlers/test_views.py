"""Views of the cluster's objects: true to usual ones, and never an error, whatever an object holds."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_operator.api.v1alpha1.names import ANNOTATION_DRAIN, ANNOTATION_HASH, LABEL_JOB, LABEL_NODE
from holdfast_operator.api.v1alpha1.times import seconds_of
from holdfast_operator.handlers.entries import job_entry
from holdfast_operator.handlers.views import host_view, pod_entry
from holdfast_operator.reconcile.snapshot import Condition, ContainerEnd, PodPhase, Taint

_AT = "2026-11-21T18:00:30Z"


def pod(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "gpt-3",
            "namespace": "team",
            "uid": "u-1",
            "creationTimestamp": "2026-11-21T18:00:00Z",
            "labels": {LABEL_JOB: "gpt", LABEL_NODE: "3"},
            "annotations": {ANNOTATION_HASH: "abc"},
            "ownerReferences": [{"uid": "another"}, {"uid": "job-uid", "controller": True}],
        },
        "spec": {"nodeName": "host-1"},
        "status": {"phase": "Running", **status},
    }


def test_a_pod_is_its_jobs_by_label_and_owner() -> None:
    entry = pod_entry(pod(conditions=[{"type": "Ready", "status": "True", "lastTransitionTime": _AT}]))
    assert entry is not None
    assert (entry.job, entry.owner, entry.host) == (("team", "gpt"), "job-uid", ("", "host-1"))
    view = entry.view
    assert (view.name, view.uid, view.index, view.phase) == ("gpt-3", "u-1", 3, PodPhase.RUNNING)
    assert (view.manifest_hash, view.deleted_s, view.end) == ("abc", None, None)
    assert view.conditions == {"Ready": Condition(type="Ready", status=True, since_s=seconds_of(_AT))}


@pytest.mark.parametrize("labels", [{}, {LABEL_JOB: "gpt"}, {LABEL_JOB: "gpt", LABEL_NODE: "x"}, {LABEL_NODE: "1"}])
def test_a_pod_without_the_labels_is_none_of_ours(labels: dict[str, str]) -> None:
    raw = pod()
    raw["metadata"]["labels"] = labels
    assert pod_entry(raw) is None


def test_a_deletion_was_asked_for_its_grace_before_its_deadline() -> None:
    raw = pod()
    raw["metadata"] |= {"deletionTimestamp": _AT, "deletionGracePeriodSeconds": 30}
    entry = pod_entry(raw)
    assert entry is not None
    assert (entry.view.deleted_s, entry.view.grace_s) == (seconds_of("2026-11-21T18:00:00Z"), 30.0)


def test_of_containers_that_wait_the_agents_trouble_is_told_first() -> None:
    def waits(name: str, reason: str) -> dict[str, Any]:
        return {"name": name, "state": {"waiting": {"reason": reason, "message": f"{name}'s"}}}

    entry = pod_entry(pod(containerStatuses=[waits("aside", "Other"), waits("holdfast", "ImagePullBackOff")]))
    assert entry is not None
    assert (entry.view.waiting, entry.view.waiting_message) == ("ImagePullBackOff", "holdfast's")
    entry = pod_entry(pod(containerStatuses=[waits("holdfast", "ContainerCreating")]))
    assert entry is not None
    assert entry.view.waiting == ""


def test_how_the_agent_ended_is_kept_and_nobody_elses_end() -> None:
    ended = {"exitCode": 2, "reason": "Error", "message": "spec.steps", "finishedAt": _AT}
    statuses = [{"name": "aside", "state": {"terminated": {"exitCode": 9}}}]
    entry = pod_entry(pod(containerStatuses=statuses))
    assert entry is not None
    assert entry.view.end is None
    entry = pod_entry(pod(containerStatuses=[*statuses, {"name": "holdfast", "state": {"terminated": ended}}]))
    assert entry is not None
    end = ContainerEnd(exit_code=2, reason="Error", message="spec.steps", finished_s=seconds_of(_AT))
    assert entry.view.end == end


def test_of_a_pod_that_failed_before_its_agent_ran_the_first_failed_init_container_is_its_end() -> None:
    def ended(name: str, code: int) -> dict[str, Any]:
        return {"name": name, "state": {"terminated": {"exitCode": code, "reason": "Error", "message": name}}}

    inits = [ended("fetch", 0), ended("unpack", 3), ended("check", 4)]
    failed = pod_entry(pod(phase="Failed", initContainerStatuses=inits))
    trying = pod_entry(pod(phase="Pending", initContainerStatuses=inits))

    assert failed is not None
    assert trying is not None
    assert failed.view.end == ContainerEnd(exit_code=3, init="unpack", reason="Error", message="unpack")
    assert trying.view.end is None


@pytest.mark.parametrize(
    ("asked", "within_s"),
    [(None, None), ("40", 40.0), ("2.5", 2.5), ("0", 0.0), ("now", 25.0), ("-1", 25.0), ("999999999", 86_400.0)],
)
def test_who_asks_for_a_drain_gets_one_whatever_the_words(asked: str | None, within_s: float | None) -> None:
    raw = pod()
    raw["metadata"]["annotations"] = {ANNOTATION_DRAIN: asked} if asked is not None else {}
    entry = pod_entry(raw)
    assert entry is not None
    assert entry.view.drain_wanted_s == within_s


def test_a_host_tells_its_taints_and_whether_it_is_heard_of() -> None:
    raw = {
        "metadata": {"name": "host-1"},
        "spec": {"unschedulable": True, "taints": [{"key": "k", "effect": "NoSchedule", "timeAdded": _AT}]},
        "status": {"conditions": [{"type": "Ready", "status": "Unknown", "lastTransitionTime": _AT}]},
    }
    view = host_view(raw)
    assert (view.name, view.is_unschedulable) == ("host-1", True)
    assert view.is_ready is None
    assert view.taints == (Taint(key="k", effect="NoSchedule", since_s=seconds_of(_AT)),)


def test_a_heartbeat_changes_nothing_of_a_host() -> None:
    def beats(at: str) -> dict[str, Any]:
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": _AT, "lastHeartbeatTime": at}
        return {"metadata": {"name": "h", "resourceVersion": at}, "status": {"conditions": [ready]}}

    assert host_view(beats("2026-11-21T18:00:31Z")) == host_view(beats("2026-11-21T18:05:31Z"))


_ODD: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([_AT, "True", "3"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_FIELDS = (
    *("metadata", "spec", "status", "name", "namespace", "uid", "labels", "annotations", "ownerReferences", "taints"),
    *("conditions", "containerStatuses", "initContainerStatuses", "state", "waiting", "terminated", "exitCode"),
    *("creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "key", "timeAdded", "reason", "type"),
    *("nodeName", "phase", "message", "controller", "lastTransitionTime", "finishedAt", "unschedulable", "generation"),
    *(LABEL_JOB, LABEL_NODE, ANNOTATION_HASH, ANNOTATION_DRAIN, "resourceVersion"),
)
_NESTED: st.SearchStrategy[Any] = st.recursive(
    _ODD,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(_FIELDS), inner, max_size=6),
    max_leaves=20,
)


def _replaced(draw: st.DrawFn, value: Any) -> Any:
    """`value` with parts of it made odd."""
    if draw(st.integers(0, 7)) == 0:
        return draw(_ODD)
    if isinstance(value, dict):
        return {key: _replaced(draw, inner) for key, inner in value.items()}
    return [_replaced(draw, inner) for inner in value] if isinstance(value, list) else value


@st.composite
def spoilt_pods(draw: st.DrawFn) -> Any:
    states = [{"name": "holdfast", "state": {"terminated": {"exitCode": 1, "finishedAt": _AT}}}]
    waits = [{"name": "i", "state": {"waiting": {"reason": "r", "message": "m"}}}]
    conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": _AT}]
    raw = pod(containerStatuses=states, initContainerStatuses=waits, conditions=conditions)
    raw["metadata"] |= {"deletionTimestamp": _AT, "deletionGracePeriodSeconds": 30}
    raw["spec"] |= {"taints": [{"key": "k", "timeAdded": _AT}], "unschedulable": True}
    return _replaced(draw, raw)


@settings(max_examples=100)
@given(
    st.dictionaries(st.sampled_from(["metadata", "spec", "status"]), _NESTED)
    | spoilt_pods().filter(lambda raw: isinstance(raw, dict))
)
def test_no_object_is_so_odd_that_it_stops_the_others(raw: dict[str, Any]) -> None:
    pod_entry(raw)
    host_view(raw)
    job_entry(raw)

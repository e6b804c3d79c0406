"""What is kept of the cluster's objects. Whatever an object holds, or lacks, it becomes a view or nothing: never an
error, since one odd object must not stop all others."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast_operator.api.v1alpha1.elastic_job import Preemption
from holdfast_operator.api.v1alpha1.names import (
    AGENT_CONTAINER,
    ANNOTATION_DRAIN,
    ANNOTATION_HASH,
    LABEL_JOB,
    LABEL_NODE,
)
from holdfast_operator.api.v1alpha1.times import seconds_of
from holdfast_operator.handlers.cache import Key, key_of
from holdfast_operator.handlers.client import Object
from holdfast_operator.reconcile.snapshot import Condition, ContainerEnd, HostView, PodPhase, PodView, Taint

_NOTICE_S: float = Preemption.model_fields["notice"].default
_DAY_S = 86_400.0
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_NUMBER_MAX = 1e12
_PHASES = {phase.value: phase for phase in PodPhase}
# Of a container that is about to start, which is nothing to wait for.
_STARTING = frozenset({"ContainerCreating", "PodInitializing"})


@dataclass(frozen=True, slots=True)
class PodEntry:
    """A pod that says it belongs to a job; `owner` is the uid of the object that controls it."""

    job: Key
    owner: str
    view: PodView

    @property
    def host(self) -> Key | None:
        return ("", self.view.host) if self.view.host else None


def pod_entry(pod: Object) -> PodEntry | None:
    """None: no pod of ours."""
    metadata = _mapping(pod.get("metadata"))
    labels, (namespace, name) = _mapping(metadata.get("labels")), key_of(pod)
    job, index = _text(labels.get(LABEL_JOB)), _text(labels.get(LABEL_NODE))
    if not (job and name and _text(metadata.get("uid")) and index.isascii() and index.isdigit() and len(index) < 10):
        return None
    return PodEntry((namespace, job), _owner(metadata), _pod_view(pod, metadata, name, int(index)))


def host_view(node: Object) -> HostView:
    metadata, spec = _mapping(node.get("metadata")), _mapping(node.get("spec"))
    ready = _conditions(_mapping(node.get("status"))).get("Ready")
    return HostView(
        name=_text(metadata.get("name")),
        is_ready=ready.status if ready is not None else None,
        taints=tuple(
            Taint(
                key=_text(taint.get("key")),
                effect=_text(taint.get("effect")),
                value=_text(taint.get("value")),
                since_s=_time(taint.get("timeAdded")),
            )
            for taint in _mappings(spec.get("taints"))
        ),
        is_unschedulable=spec.get("unschedulable") is True,
    )


def _pod_view(pod: Object, metadata: Mapping[str, Any], name: str, index: int) -> PodView:
    spec, status = _mapping(pod.get("spec")), _mapping(pod.get("status"))
    annotations = _mapping(metadata.get("annotations"))
    conditions = _conditions(status)
    grace_s = _number(metadata.get("deletionGracePeriodSeconds"))
    deadline_s = _time(metadata.get("deletionTimestamp"))
    waiting, waiting_message = _waiting(status)
    return PodView(
        name=name,
        uid=_text(metadata.get("uid")),
        index=index,
        phase=_PHASES.get(_text(status.get("phase")), PodPhase.UNKNOWN),
        created_s=_time(metadata.get("creationTimestamp")) or 0.0,
        host=_text(spec.get("nodeName")),
        deleted_s=deadline_s - (grace_s or 0.0) if deadline_s is not None else None,
        grace_s=grace_s if deadline_s is not None else None,
        conditions=conditions,
        waiting=waiting,
        waiting_message=waiting_message,
        reason=_text(status.get("reason")),
        message=_text(status.get("message")),
        end=_end(status),
        manifest_hash=_text(annotations.get(ANNOTATION_HASH)),
        drain_wanted_s=_drain_wanted_s(annotations),
    )


def _drain_wanted_s(annotations: Mapping[str, Any]) -> float | None:
    """Whoever asks in other words than seconds gets the usual notice."""
    wanted = annotations.get(ANNOTATION_DRAIN)
    if wanted is None:
        return None
    found = _SECONDS.fullmatch(_text(wanted))
    return min(float(found[0]), _DAY_S) if found is not None else _NOTICE_S


def _conditions(status: Mapping[str, Any]) -> dict[str, Condition]:
    return {
        _text(condition.get("type")): Condition(
            type=_text(condition.get("type")),
            status={"True": True, "False": False}.get(_text(condition.get("status"))),
            reason=_text(condition.get("reason")),
            message=_text(condition.get("message")),
            since_s=_time(condition.get("lastTransitionTime")),
        )
        for condition in _mappings(status.get("conditions"))
    }


def _waiting(status: Mapping[str, Any]) -> tuple[str, str]:
    """Why a container does not start, the agent's before any other's."""
    found = [
        (_text(container.get("name")) != AGENT_CONTAINER, _text(waits.get("reason")), _text(waits.get("message")))
        for kind in ("initContainerStatuses", "containerStatuses")
        for container in _mappings(status.get(kind))
        if (waits := _mapping(_mapping(container.get("state")).get("waiting")))
    ]
    troubles = sorted(entry for entry in found if entry[1] and entry[1] not in _STARTING)
    return troubles[0][1:] if troubles else ("", "")


def _end(status: Mapping[str, Any]) -> ContainerEnd | None:
    """Of the agent; where it never ran, of the first init container that failed, if the pod has."""
    for container in _mappings(status.get("containerStatuses")):
        end = _container_end(container)
        if _text(container.get("name")) == AGENT_CONTAINER and end is not None:
            return end
    if status.get("phase") != PodPhase.FAILED:
        return None
    for container in _mappings(status.get("initContainerStatuses")):
        end = _container_end(container, init=_text(container.get("name")))
        if end is not None and end.exit_code != 0:
            return end
    return None


def _container_end(container: Mapping[str, Any], *, init: str = "") -> ContainerEnd | None:
    ended = _mapping(_mapping(container.get("state")).get("terminated"))
    code = _number(ended.get("exitCode"))
    if code is None:
        return None
    return ContainerEnd(
        exit_code=int(code),
        init=init,
        reason=_text(ended.get("reason")),
        message=_text(ended.get("message")),
        finished_s=_time(ended.get("finishedAt")),
    )


def _owner(metadata: Mapping[str, Any]) -> str:
    owners = (owner for owner in _mappings(metadata.get("ownerReferences")) if owner.get("controller") is True)
    return next((_text(owner.get("uid")) for owner in owners), "")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _mappings(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    """None as well where it is beyond all that counts seconds or exit codes."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < _NUMBER_MAX:
        return None
    return float(value)


def _time(value: object) -> float | None:
    try:
        return seconds_of(value) if isinstance(value, str) else None
    except (ValueError, OverflowError):
        return None

"""What is told as Kubernetes events: each thing when it is written into the status first."""

from collections.abc import Iterable, Iterator
from typing import Literal

from holdfast_operator.api.v1alpha1 import names
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJob
from holdfast_operator.api.v1alpha1.status import ElasticJobStatus, NodeEntry
from holdfast_operator.reconcile.actions import TellEvent
from holdfast_operator.status.conditions import condition_of

_MESSAGE_CHARS_MAX = 1024  # the API server takes no more

Severity = Literal["Normal", "Warning"]
# Of a node that goes, by why it does.
_GOING: dict[str, tuple[Severity, str]] = {
    "Notice": ("Normal", "NodeLeaves"),
    "Left": ("Normal", "NodeLeft"),
    "Lost": ("Warning", "NodeLost"),
    "Failed": ("Warning", "PodFailed"),
}
# Of a condition that has become true.
_TRUE: dict[str, Severity] = {
    "Running": "Normal",
    "Suspended": "Normal",
    "Degraded": "Warning",
    "Complete": "Normal",
    "Failed": "Warning",
}


def events(job: ElasticJob, after: ElasticJobStatus, news: Iterable[NodeEntry]) -> Iterator[TellEvent]:
    for entry in news:
        if entry.leaving in _GOING:
            severity, reason = _GOING[entry.leaving]
            yield _event(severity, reason, f"{names.pod_name(job.metadata.name, entry.index)}: {entry.reason}")
    for condition in after.conditions:
        old = condition_of(job.status.conditions, condition.type)
        is_other = condition.type == "Degraded" and old is not None and old.reason != condition.reason
        is_new = old is None or old.status != "True" or is_other
        # That nodes come and go is told of each.
        if condition.status == "True" and is_new and condition.reason != "FewerNodes":
            yield _event(_TRUE[condition.type], condition.reason, condition.message)


def _event(severity: Severity, reason: str, message: str) -> TellEvent:
    return TellEvent(type=severity, reason=reason, message=message[:_MESSAGE_CHARS_MAX])

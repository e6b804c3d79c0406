"""What is kept of an ElasticJob: the job, or why it cannot be worked on."""

import logging
from dataclasses import dataclass

from holdfast_operator.api.v1alpha1.elastic_job import ElasticJob, ElasticJobStatus, Metadata
from holdfast_operator.api.v1alpha1.names import OPERATOR
from holdfast_operator.api.v1alpha1.parse import parse_job, parse_metadata, parse_status
from holdfast_operator.api.v1alpha1.problems import InvalidJobError
from holdfast_operator.handlers.client import Object
from holdfast_operator.handlers.decoding import is_deep

log = logging.getLogger(__name__)
_DEPTH_MAX = 64


@dataclass(frozen=True, slots=True)
class JobEntry:
    """`job` None: `problem` says, for people, which fields are wrong. `managed_by` is told of those as well."""

    metadata: Metadata
    status: ElasticJobStatus
    job: ElasticJob | None
    problem: str = ""
    managed_by: str | None = None

    @property
    def is_ours(self) -> bool:
        """Whether this operator works on it; nobody does on one that is being deleted."""
        return self.managed_by in (None, OPERATOR) and self.metadata.deleted_s is None


def job_entry(raw: Object) -> JobEntry | None:
    """None: not even its metadata can be read, which the API server gives no object without."""
    try:
        metadata = parse_metadata(raw)
    except InvalidJobError:
        return None
    try:
        if is_deep(raw.get("spec"), _DEPTH_MAX):
            problem = f"spec: is nested more than {_DEPTH_MAX} levels deep; no field that there is lies so deep"
        else:
            job = parse_job(raw)
            return JobEntry(metadata, job.status, job, managed_by=job.spec.managed_by)
    except InvalidJobError as error:
        problem = str(error)
    except Exception as error:  # a bug that one object shows is told to its owner
        log.exception("job.odd", extra={"job": f"{metadata.namespace}/{metadata.name}"})
        problem = f"the object cannot be read: {error!r}"
    return JobEntry(metadata, parse_status(raw.get("status")), None, problem, _managed_by(raw.get("spec")))


def _managed_by(spec: object) -> str | None:
    said = spec.get("managedBy") if isinstance(spec, dict) else None
    return said if isinstance(said, str) else None

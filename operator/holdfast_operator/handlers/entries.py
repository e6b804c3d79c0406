"""What is kept of an ElasticJob: the job, or why it cannot be worked on."""

import logging
from dataclasses import dataclass

from holdfast_operator.api.v1alpha1.elastic_job import ElasticJob, ElasticJobStatus, Metadata
from holdfast_operator.api.v1alpha1.parse import parse_job, parse_metadata, parse_status
from holdfast_operator.api.v1alpha1.problems import InvalidJobError
from holdfast_operator.handlers.client import Object
from holdfast_operator.handlers.decoding import is_deep

log = logging.getLogger(__name__)
_DEPTH_MAX = 64


@dataclass(frozen=True, slots=True)
class JobEntry:
    """`job` None: `problem` says, for people, which fields are wrong."""

    metadata: Metadata
    status: ElasticJobStatus
    job: ElasticJob | None
    problem: str = ""


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
            return JobEntry(metadata, job.status, job)
    except InvalidJobError as error:
        problem = str(error)
    except Exception as error:  # a bug that one object shows is told to its owner
        log.exception("job.odd", extra={"job": f"{metadata.namespace}/{metadata.name}"})
        problem = f"the object cannot be read: {error!r}"
    return JobEntry(metadata, parse_status(raw.get("status")), None, problem)

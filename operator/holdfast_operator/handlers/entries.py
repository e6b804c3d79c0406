"""What is kept of an ElasticJob: the job, or why it cannot be worked on."""

from dataclasses import dataclass

from holdfast_operator.api.v1alpha1.elastic_job import ElasticJob, ElasticJobStatus, Metadata
from holdfast_operator.api.v1alpha1.parse import parse_job, parse_metadata, parse_status
from holdfast_operator.api.v1alpha1.problems import InvalidJobError
from holdfast_operator.handlers.client import Object


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
        job = parse_job(raw)
    except InvalidJobError as error:
        return JobEntry(metadata, parse_status(raw.get("status")), None, str(error))
    return JobEntry(metadata, job.status, job)

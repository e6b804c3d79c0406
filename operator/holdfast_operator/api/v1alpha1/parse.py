"""Between objects as the API server gives and takes them and the model.

The API server has refused most of what is wrong. What is left is what its schema cannot say, or what an earlier
version of the schema let pass.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from holdfast_operator.api.v1alpha1 import GROUP, KIND, VERSION
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJob, ElasticJobSpec, ElasticJobStatus, Metadata
from holdfast_operator.api.v1alpha1.job_spec import job_spec_yaml
from holdfast_operator.api.v1alpha1.problems import InvalidJobError, Path, Problem, problems_in
from holdfast_operator.api.v1alpha1.times import seconds_of

_NAMES = ("name", "namespace", "uid", "resourceVersion", "generation", "labels")
# How the model calls what metadata calls otherwise.
_TIMES = {"createdS": "creationTimestamp", "deletedS": "deletionTimestamp"}


def parse_job(raw: object) -> ElasticJob:
    """The job that an object is; what it does not say has its default. What comes back can be submitted.

    Raises:
        InvalidJobError: it is none; every wrong field is told.
    """
    if not isinstance(raw, Mapping):
        raise InvalidJobError([Problem(field="object", given=type(raw).__name__, remedy=f"should be an {KIND}")])
    problems: list[Problem] = list(_wrong_kind(raw))
    metadata = spec = None
    try:
        metadata = parse_metadata(raw)
    except InvalidJobError as error:
        problems += error.problems
    try:
        spec = ElasticJobSpec.model_validate(raw.get("spec"), by_alias=True, by_name=False)
    except ValidationError as error:
        problems += problems_in(error, lambda path: ["spec", *path])
    if metadata is None or spec is None or problems:
        raise InvalidJobError(problems)
    job = ElasticJob(metadata=metadata, spec=spec, status=parse_status(raw.get("status")))
    job_spec_yaml(job)  # refuses what the runtime would
    return job


def parse_metadata(raw: Mapping[str, Any]) -> Metadata:
    """Raises: InvalidJobError: some of it is missing or wrong."""
    given = raw.get("metadata")
    known = given if isinstance(given, Mapping) else {}
    names = {name: known[name] for name in _NAMES if name in known}
    times = {ours: _seconds(known[theirs], theirs) for ours, theirs in _TIMES.items() if known.get(theirs) is not None}
    try:
        return Metadata.model_validate({**names, **times}, by_alias=True, by_name=False)
    except ValidationError as error:
        raise InvalidJobError(tuple(problems_in(error, _in_metadata))) from error


def parse_status(raw: object) -> ElasticJobStatus:
    """What cannot be understood of a status is as if it were not there: it is only what an operator last saw."""
    known = dict(raw) if isinstance(raw, Mapping) else {}
    try:
        return ElasticJobStatus.model_validate(known, by_alias=True, by_name=False)
    except ValidationError as error:
        strange = {detail["loc"][0] for detail in error.errors(include_url=False)}
    return parse_status({name: value for name, value in known.items() if name not in strange})


def _wrong_kind(raw: Mapping[str, Any]) -> list[Problem]:
    right = {"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND}
    return [
        Problem(field=field, given=repr(raw[field]), remedy=f"should be {value}")
        for field, value in right.items()
        # Members of a list do not say it.
        if field in raw and raw[field] != value
    ]


def _in_metadata(path: Path) -> Path:
    return ["metadata", *(_TIMES.get(str(part), part) for part in path)]


def _seconds(text: object, field: str) -> float:
    try:
        return seconds_of(str(text))
    except (ValueError, OverflowError) as error:
        problem = Problem(field=f"metadata.{field}", given=repr(text), remedy="should be a time as of RFC 3339")
        raise InvalidJobError([problem]) from error

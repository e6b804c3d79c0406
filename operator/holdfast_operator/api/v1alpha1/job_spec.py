"""From an `ElasticJob` to the job spec of the runtime, which an agent submits (`holdfast/spec.py`)."""

import json
import re
from typing import Any, Final

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from holdfast.errors import SpecError
from holdfast.spec import parse_spec
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJob
from holdfast_operator.api.v1alpha1.names import job_id
from holdfast_operator.api.v1alpha1.problems import InvalidJobError, Path, problems_in

# Fields of the ElasticJob's spec, and what they are called in the runtime's.
FIELDS: Final = {
    "program.entry": "program.entry",
    "program.params": "program.params",
    "steps": "steps",
    "batch.size": "batch.size",
    "batch.microbatch": "batch.microbatch",
    "batch.block": "block",
    "reduction": "reduction",
    "device": "device",
    "nodes.min": "nodes.min",
    "nodes.max": "nodes.max",
    "nodes.desired": "nodes.desired",
    "slots_per_node": "slots_per_node",
    "layout.depth": "layout.depth",
    "layout.memory_per_slot": "layout.memory_per_slot_bytes",
    "layout.adaptive": "layout.adaptive",
    "timeouts.lease_ttl": "timeouts.lease_ttl_s",
    "timeouts.probe": "timeouts.probe_s",
    "timeouts.abort": "timeouts.abort_s",
    "timeouts.progress": "timeouts.progress_s",
    "timeouts.start": "timeouts.start_s",
    "timeouts.start_settle": "timeouts.start_settle_s",
    "timeouts.orphan": "timeouts.orphan_s",
    "preemption.notice": "timeouts.drain_s",
    "state.url": "checkpoints.url",
    "state.copies": "snapshots.copies",
    "state.snapshot_every": "snapshots.every",
    "state.checkpoint_every": "checkpoints.every",
    "state.keep_last": "checkpoints.keep_last",
    "state.keep_every": "checkpoints.keep_every",
}
_WRITTEN: Final = {theirs: [to_camel(part) for part in ours.split(".")] for ours, theirs in FIELDS.items()}


# What JSON leaves as it is inside a text, and YAML refuses or takes for the end of a line.
_ESCAPED: Final = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def job_spec_yaml(job: ElasticJob) -> str | None:
    """None where a command submits the job. It is JSON, which is YAML: every text is quoted, so that 1e-3 stays one.

    Raises:
        InvalidJobError: the runtime would refuse it.
    """
    if job.spec.program is None:
        return None
    tree = _as_job_spec(job)
    try:
        parse_spec(tree)
    except SpecError as error:
        if not isinstance(error.__cause__, ValidationError):
            raise
        raise InvalidJobError(tuple(problems_in(error.__cause__, _locate))) from error
    text = json.dumps(tree, indent=2, ensure_ascii=False)
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def _as_job_spec(job: ElasticJob) -> dict[str, Any]:
    tree: dict[str, Any] = {"name": job_id(job.metadata.name, job.metadata.uid)}
    for ours, theirs in FIELDS.items():
        value: Any = job.spec
        for part in ours.split("."):
            value = getattr(value, part)
        if value is not None:
            _put(tree, theirs, value)
    if job.spec.nodes.desired is None:
        _put(tree, "nodes.desired", job.spec.nodes.max)
    return tree


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *folders, name = path.split(".")
    for folder in folders:
        tree = tree.setdefault(folder, {})
    tree[name] = value


def _locate(path: Path) -> Path:
    """In the manifest. Sections are called alike in both, and the runtime's name is made of the object's."""
    for length in range(len(path), 0, -1):
        ours = _WRITTEN.get(".".join(map(str, path[:length])))
        if ours is not None:
            return ["spec", *ours, *path[length:]]
    return ["metadata", "name"] if path[0] == "name" else ["spec", *path]

"""The status of a job whose spec cannot be read, although the API server let it pass."""

from holdfast_operator.api.v1alpha1.elastic_job import Metadata
from holdfast_operator.api.v1alpha1.status import ElasticJobStatus
from holdfast_operator.status.conditions import conditions
from holdfast_operator.status.facts import Facts, Trouble
from holdfast_operator.status.phase import phase


def invalid_status(metadata: Metadata, before: ElasticJobStatus, problem: str, now_s: float) -> ElasticJobStatus:
    """Nothing is done about the job until its spec is mended; its pods, if it has any, go on."""
    if before.finished_time is not None:
        return before
    facts = Facts(
        now_s=now_s,
        generation=metadata.generation,
        stage="Active",
        verdict=None,
        state=None,
        store_trouble="",
        has_trained=before.started_time is not None,
        step=before.step or 0,
        saved_step=before.checkpoint.step if before.checkpoint is not None else None,
        nodes_min=1,
        wanted=before.nodes.wanted,
        ready=0,
        troubles=(Trouble(reason="InvalidSpec", message=problem),),
    )
    told = conditions(facts, before.conditions)
    return before.model_copy(
        update={"observed_generation": metadata.generation, "conditions": told, "phase": phase(told)}
    )

"""The status of a job whose spec cannot be read, although the API server let it pass."""

from holdfast_operator.api.v1alpha1.elastic_job import Metadata
from holdfast_operator.api.v1alpha1.status import ElasticJobStatus, StatusCondition
from holdfast_operator.status.conditions import condition_of, conditions
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
        ready=before.nodes.ready,
        troubles=(Trouble(reason="InvalidSpec", message=problem),),
    )
    told = conditions(facts, before.conditions)
    if before.ledger:
        told = tuple(_kept(condition, before) for condition in told)
    return before.model_copy(
        update={"observed_generation": metadata.generation, "conditions": told, "phase": phase(told)}
    )


def _kept(condition: StatusCondition, before: ElasticJobStatus) -> StatusCondition:
    """Of a job that has pods, whether it runs or is suspended is what it was: of its spec alone nothing is known."""
    old = condition_of(before.conditions, condition.type)
    return old if old is not None and condition.type in ("Running", "Suspended") else condition

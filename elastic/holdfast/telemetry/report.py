"""report.json: what a run leaves behind. The models are its only definition: the shipped schema
(report.schema.json) is made of them, and docs/report.md explains every field.

    python -m holdfast.telemetry.report > report.schema.json
"""

import json
import sys
from importlib import resources
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from holdfast.model.records import Action, Cause, Result, StopMode

Seconds = float | None
_SCHEMA_ID = "https://holdfast.dev/schemas/report-1.json"


class _Part(BaseModel):
    """Non-finite numbers are refused: they are not JSON."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, json_schema_serialization_defaults_required=True
    )


class StageReport(_Part):
    """One slot's part of a pipeline."""

    node: str = Field(description="node that runs the stage")
    slot: int = Field(ge=0, description="slot of that node")
    layers: tuple[int, int] = Field(description="[first, end): indices into layer_names, end not included")


class PipelineReport(_Part):
    """Stages that hold the whole model once, and their share of every global batch."""

    blocks: tuple[int, int] = Field(description="[first, end): blocks of the global batch it computes")
    microbatches: int = Field(ge=1, description="microbatches it computes a step")
    stages: tuple[StageReport, ...] = Field(description="in the order of the layers")


class FailureReport(_Part):
    """An exception in the user's code."""

    where: str = Field(description="layer or phase")
    step: int = Field(ge=0, description="step being computed, counted from 0")
    slot: str = Field(description="node/slot on which it was raised")
    traceback: str = Field(description="as Python prints it")


class GenerationReport(_Part):
    """One membership with one plan."""

    number: int = Field(ge=1, description="generations count from 1")
    cause: Cause = Field(description="why it began, in a word")
    reason: str = Field(description="why it began, in a sentence")
    stop: StopMode = Field(description="how the generation before was stopped: at a step boundary or at once")
    members: tuple[str, ...] = Field(description="slots (node/slot) that took part in its beginning, leavers included")
    leavers: tuple[str, ...] = Field(description="nodes that were to leave")
    action: Action | None = Field(description="what it was started for; null: it was superseded before its start")
    layout: str | None = Field(description='pipelines x depth, deepest first, such as "2x3+1x2"; null: none')
    pipelines: tuple[PipelineReport, ...] = Field(description="empty while holding, or if it never started")
    start_step: int | None = Field(ge=0, description="committed steps it started from; null: it never started")
    committed_steps: int = Field(ge=0, description="steps it committed, also those that a later one undid")
    redone_steps: int = Field(ge=0, description="steps begun or committed before it that had to be computed again")
    begun_time_s: float | None = Field(description="when it was written, in seconds since 1970")
    median_step_s: Seconds = Field(description="median time between its commits of consecutive steps; null: too few")
    downtime_s: Seconds = Field(
        description="last commit before it to its first, less one median step (its own, else the newest before it); "
        "null: for the first to commit, and where none came"
    )
    detect_s: Seconds = Field(description="last commit before it until it was written, earlier attempts included")
    stop_s: Seconds = Field(
        description="from then, or from that commit where it came later, until every member had stopped and said "
        "what it holds"
    )
    plan_s: Seconds = Field(description="from then until its start was written")
    ready_s: Seconds = Field(description="from then until every member had formed its groups and got its layers")
    first_step_s: Seconds = Field(description="from then until its first commit")
    decided_s: Seconds = Field(description="written until its start was written, a step in flight included")
    form_s: Seconds = Field(description="forming process groups, the slowest slot")
    move_s: Seconds = Field(description="moving layers, the slowest slot")
    layers_moved: int = Field(ge=0, description="transfers of a layer from a live copy to a slot")
    bytes_by_source: dict[str, int] = Field(description="bytes sent by each slot (node/slot) as the layers moved")
    bytes_by_target: dict[str, int] = Field(description="the same bytes, by the slot that received them")
    layers_restored: int = Field(ge=0, description="layers taken from RAM or from a checkpoint")
    bytes_restored: dict[str, int] = Field(
        description='their bytes, by the node whose RAM they came from, or "checkpoint"'
    )
    initialised_layers: int = Field(ge=0, description="layers made from the seed, copies included")


class Report(_Part):
    """One run of one job."""

    version: Literal[1] = Field(default=1, description="of this format")
    name: str = Field(description="the job's name in its spec")
    outcome: Result = Field(description="completed: all steps; stopped: ended early with its weights; failed")
    reason: str = Field(description="why it ended so")
    failure: FailureReport | None = Field(description="the exception in the user's code that ended it; null: none")
    steps: int = Field(ge=1, description="steps that were asked for")
    steps_committed: int = Field(ge=0, description="steps that the final state holds")
    losses: tuple[float | None, ...] = Field(
        description="one a committed step, the first step's at index 0; null: not a finite number, or unreported"
    )
    losses_not_finite: int = Field(ge=0, description="how many losses are null because they were NaN or infinite")
    losses_unreported: int = Field(ge=0, description="how many losses are null because nobody was left to tell them")
    global_batch: int = Field(ge=1, description="samples a step")
    samples_consumed: int = Field(ge=0, description="steps_committed x global_batch")
    weights_sha256: str | None = Field(description="of the final weights, name-sorted; null: not written")
    optimizer_sha256: str | None = Field(description="of the optimizer's final state, name-sorted; null: not written")
    layer_names: tuple[str, ...] = Field(description="layers by index")
    begun_time_s: float | None = Field(description="when the first fact was seen, in seconds since 1970")
    ended_time_s: float | None = Field(description="when the outcome was seen, else the last fact")
    wall_s: Seconds = Field(description="between the two")
    training_s: Seconds = Field(description="first commit to last; null: fewer than two")
    median_step_s: Seconds = Field(description="median time between commits of consecutive steps of one generation")
    samples_per_s: Seconds = Field(description="steady: global_batch / median_step_s")
    goodput: float | None = Field(
        description="share of training_s that went into steps that count, at the pace of the generation they ran in; "
        "1 without any change, but for noise"
    )
    generations: tuple[GenerationReport, ...] = Field(description="by number")

    def to_json(self) -> str:
        return self.model_dump_json(indent=1) + "\n"


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of report.json, made from the models."""
    made = Report.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": _SCHEMA_ID, **made}


def shipped_schema() -> dict[str, Any]:
    """The same, as installed with the package."""
    text = resources.files("holdfast.telemetry").joinpath("report.schema.json").read_text(encoding="utf-8")
    read: dict[str, Any] = json.loads(text)
    return read


if __name__ == "__main__":
    sys.stdout.write(json.dumps(schema(), indent=1) + "\n")

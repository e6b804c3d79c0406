"""What the status of an `ElasticJob` holds. Times are RFC 3339 in UTC."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from holdfast_operator.api.v1alpha1.section import Section

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class _Told(Section):
    """Written by an operator, and read by a later or an earlier one: what it does not know is as if not there."""

    model_config = ConfigDict(extra="ignore")


class StatusCondition(_Told):
    """As metav1.Condition."""

    type: str = Field(max_length=316, description="Running, Suspended, Degraded, Complete or Failed")
    status: Literal["True", "False", "Unknown"] = Field(description="whether it is so")
    reason: str = Field(
        min_length=1,
        max_length=1024,
        pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        description="one word for programs",
    )
    message: str = Field(max_length=32768, description="for people: what is wrong and what to do")
    last_transition_time: Time = Field(description="when status changed last")
    observed_generation: int = Field(default=0, ge=0, description="metadata.generation that this was said of")


class NodeCounts(_Told):
    """How many nodes there are."""

    desired: int = Field(default=0, ge=0, description="asked for at present")
    ready: int = Field(default=0, ge=0, description="joined, and not leaving")
    draining: int = Field(default=0, ge=0, description="leaving, and not gone")


class Disruptions(_Told):
    """Nodes that went away, or got notice, by no fault of the job."""

    seen: int = Field(default=0, ge=0, description="all of them")
    survived: int = Field(default=0, ge=0, description="of these, those after which it trained on")


class CheckpointStatus(_Told):
    """The newest checkpoint."""

    step: int = Field(ge=0, description="the state after this step")
    url: str = Field(description="where it lies")
    time: Time = Field(description="when it was seen first; its age is from then")


class Failure(_Told):
    """Of a pod, for the restart policy; those within its window are kept."""

    pod: str = Field(description="its name")
    uid: str = Field(description="its uid, so that none counts twice")
    time: Time = Field(description="when it ended")
    reason: str = Field(description="how it ended")


class ElasticJobStatus(_Told):
    """What is."""

    observed_generation: int = Field(default=0, ge=0, description="metadata.generation that this status is of")
    phase: str = Field(default="", description="of the conditions, for people; programs read these")
    conditions: Annotated[tuple[StatusCondition, ...], Field(strict=False)] = Field(
        default=(),
        description="what is so, with the reason, and what a person may do",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    nodes: NodeCounts = Field(default_factory=NodeCounts, description="how many nodes there are")
    replicas: int = Field(default=0, ge=0, le=10**6, description="pods that are or come; for the scale subresource")
    selector: str = Field(default="", description="of the job's pods; for the scale subresource")
    generation: int | None = Field(default=None, description="of the rendezvous: one membership with one plan")
    layout: str | None = Field(default=None, description="2x3+1x2: two pipelines of three stages, one of two")
    step: int | None = Field(default=None, ge=0, description="committed steps")
    steps: int | None = Field(default=None, ge=0, description="steps in all")
    progress: str = Field(default="", description="step/steps")
    samples_per_second: str = Field(default="", description="over the last steps")
    goodput: str = Field(default="", description="share of the time that went into steps that count")
    checkpoint: CheckpointStatus | None = Field(default=None, description="the newest checkpoint")
    disruptions: Disruptions = Field(
        default_factory=Disruptions, description="nodes that went away, or got notice, by no fault of the job"
    )
    recoveries: int = Field(default=0, ge=0, description="generations that a loss began")
    failures: Annotated[tuple[Failure, ...], Field(strict=False)] = Field(
        default=(), description="of pods, within the window of the restart policy"
    )
    started_time: Time | None = Field(default=None, description="when it trained first")
    finished_time: Time | None = Field(default=None, description="when it was over")

"""What the status of an `ElasticJob` holds. Times are RFC 3339 in UTC."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

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
    wanted: int = Field(
        default=0, ge=0, description="by the spec; fewer are asked for while the cluster has no room for them"
    )
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
    reason: str = Field(description="how it ended; of the newest few")


def _without_defaults(schema: dict[str, Any]) -> None:
    """The API server writes what a schema has a default for into every object."""
    for field in schema["properties"].values():
        field.pop("default", None)


class NodeEntry(_Told):
    """One of the job's pods, from before it is made until after it is gone: the operator's memory, by which every pod
    is made, counted and let go once, whoever of several operators does it and however often one is cut short."""

    model_config = ConfigDict(json_schema_extra=_without_defaults)

    index: int = Field(ge=0, description="which of the job's nodes")
    uid: str = Field(default="", description="of its pod; empty until that was seen")
    joined: bool = Field(default=False, description="its agent was in the rendezvous")
    leaving: Literal["", "Notice", "Lost", "Left", "Failed", "Asked"] = Field(
        default="", description="why it goes: Asked: the operator has no more use for it; empty: it stays"
    )
    reason: str = Field(default="", description="of that, for people")
    since: Time | None = Field(
        default=None, description="when that was seen, or, of one that stays, since when its pod is not"
    )
    until: Time | None = Field(default=None, description="when it is gone at the latest; none: it is let go first")
    absent: Time | None = Field(
        default=None,
        description="of one that leaves: since when its agent is not in the rendezvous, though its pod runs",
    )
    generation: int | None = Field(default=None, description="of the rendezvous when that was seen")
    counted: bool = Field(default=False, description="among the disruptions")
    survived: bool = Field(default=False, description="and the job has trained without it")

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what is not set: a job may have thousands of these, and an object has a bound."""
        return {name: value for name, value in write(self).items() if value not in ("", None) and value is not False}


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
    observed_time: Time | None = Field(default=None, description="when this was written")
    ledger: Annotated[tuple[NodeEntry, ...], Field(strict=False)] = Field(
        default=(), description="the operator's memory of the job's pods; not for people"
    )

"""What the status of an `ElasticJob` holds. Times are RFC 3339 in UTC."""

from typing import Literal

from pydantic import Field

from holdfast_operator.api.v1alpha1.section import Section


class StatusCondition(Section):
    """As metav1.Condition."""

    type: str = Field(max_length=316, description="Running, Suspended, Degraded, Complete or Failed")
    status: Literal["True", "False", "Unknown"]
    reason: str = Field(max_length=1024, description="one word for programs")
    message: str = Field(max_length=32768, description="for people: what is wrong and what to do")
    last_transition_time: str
    observed_generation: int = 0


class NodeCounts(Section):
    desired: int = Field(default=0, description="asked for at present")
    ready: int = Field(default=0, description="joined, and not leaving")
    draining: int = 0


class Disruptions(Section):
    """Nodes that went away, or got notice, by no fault of the job."""

    seen: int = 0
    survived: int = Field(default=0, description="of these, those after which it trained on")


class CheckpointStatus(Section):
    step: int
    url: str
    time: str = Field(description="when it was seen first; its age is from then")


class Failure(Section):
    """Of a pod, for the restart policy; those within its window are kept."""

    pod: str
    uid: str
    time: str
    reason: str


class ElasticJobStatus(Section):
    """What is."""

    observed_generation: int = 0
    phase: str = Field(default="", description="of the conditions, for people; programs read these")
    conditions: tuple[StatusCondition, ...] = ()
    nodes: NodeCounts = Field(default_factory=NodeCounts)
    replicas: int = Field(default=0, description="pods that are or come; for the scale subresource")
    selector: str = Field(default="", description="of the job's pods; for the scale subresource")
    generation: int | None = Field(default=None, description="of the rendezvous")
    layout: str | None = Field(default=None, description="2x3+1x2: two pipelines of three stages, one of two")
    step: int | None = None
    steps: int | None = None
    progress: str = Field(default="", description="step/steps")
    samples_per_second: str = ""
    goodput: str = Field(default="", description="share of the time that went into steps that count")
    checkpoint: CheckpointStatus | None = None
    disruptions: Disruptions = Field(default_factory=Disruptions)
    recoveries: int = 0
    failures: tuple[Failure, ...] = ()
    started_time: str | None = Field(default=None, description="when it trained first")
    finished_time: str | None = None

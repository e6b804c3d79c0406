"""What is known of one job at one moment. Times are seconds since the epoch, durations seconds.

Taken from caches of the cluster and of the rendezvous, each of which may lag: what was decided is decided again from
what is seen next, and must then come to the same, or to nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from holdfast.model.ids import NodeId
from holdfast.model.records import OutcomeRecord
from holdfast.telemetry.run_state import RunState
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJob


class PodPhase(StrEnum):
    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One of a pod's or a node's conditions."""

    type: str
    status: bool | None  # None: Unknown
    reason: str = ""
    message: str = ""
    since_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerEnd:
    """How the agent's container ended, or one before it that failed."""

    exit_code: int
    init: str = ""  # the init container that failed, so that the agent never ran
    reason: str = ""  # OOMKilled, Error, Completed
    message: str = ""  # its termination message
    finished_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PodView:
    """A pod that belongs to the job. Its phase lies on a node that is lost."""

    name: str
    uid: str
    index: int
    phase: PodPhase
    created_s: float
    host: str = ""  # the Kubernetes node it is bound to; empty while it is not
    deleted_s: float | None = None  # when its deletion was asked for, its deadline not included
    grace_s: float | None = None  # of that deletion
    conditions: Mapping[str, Condition] = field(default_factory=dict)  # by type
    waiting: str = ""  # why a container does not start: ImagePullBackOff, CreateContainerConfigError
    waiting_message: str = ""
    reason: str = ""  # of the pod as a whole: Evicted, UnexpectedAdmissionError
    message: str = ""
    end: ContainerEnd | None = None
    manifest_hash: str = ""  # of what it was made from
    drain_wanted_s: float | None = None  # somebody wants its node to leave, within so many seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint:
    key: str
    effect: str
    value: str = ""
    since_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """A Kubernetes node that one of the job's pods is bound to. One that was deleted is not in the snapshot."""

    name: str
    is_ready: bool | None  # None: Unknown, as the control plane says of a node it does not hear of
    taints: tuple[Taint, ...] = ()
    is_unschedulable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunNode:
    """A node as the rendezvous shows it: its agent holds a lease."""

    node: NodeId  # its pod's name
    incarnation: str
    is_warm: bool  # its workers are; it takes part, or may at any time


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDrain:
    node: NodeId
    grace_s: float
    is_released: bool  # nothing hangs on that node any more
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCheckpoint:
    step: int
    url: str
    time_s: float | None  # when it was seen first


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSnapshot:
    """The job as its rendezvous shows it, or showed it last. Before it is submitted there is none."""

    state: RunState
    step: int
    steps: int
    generation: int | None
    layout: str | None  # 2x3+1x2: two pipelines of three stages and one of two
    members: frozenset[NodeId]  # of the newest generation
    nodes: Mapping[NodeId, RunNode]
    drains: Mapping[NodeId, RunDrain]
    samples_per_s: float | None
    goodput: float | None  # share of the time since its first step that went into steps that count
    recoveries: int  # generations that a loss began
    checkpoint: RunCheckpoint | None
    outcome: OutcomeRecord | None
    reasons: tuple[str, ...] = ()  # why it holds, or why the layout is no better


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything that `reconcile` looks at."""

    now_s: float
    job: ElasticJob
    pods: tuple[PodView, ...]
    hosts: Mapping[str, HostView]
    run: RunSnapshot | None
    # Why the rendezvous cannot be read, in words for people; "": it can. `run` is then what was seen last.
    store_trouble: str = ""
    has_secret: bool = False
    config: str | None = None  # the spec in its ConfigMap
    # What the API server refused when this was tried last, and why; by kind and name, such as "Pod/gpt-3".
    refusals: Mapping[str, str] = field(default_factory=dict)
    progress_s: float = 30.0  # steps and rates alone are written this often, at most

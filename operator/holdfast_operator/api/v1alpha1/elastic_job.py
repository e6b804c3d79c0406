"""An `ElasticJob`: what its spec and its status hold. The schema of the CRD is made from this (`crd.py`)."""

from typing import Any, Literal

from pydantic import Field, JsonValue

from holdfast_operator.api.v1alpha1.section import Section
from holdfast_operator.api.v1alpha1.status import ElasticJobStatus

__all__ = ["ElasticJob", "ElasticJobSpec", "ElasticJobStatus", "Metadata"]


class Program(Section):
    """Where the Program comes from, in the image."""

    entry: str = Field(
        pattern=r"^[^:]+:[A-Za-z_][A-Za-z0-9_]*$",
        max_length=1024,
        description="module:function or path/file.py:function; a path is relative to the image's working directory",
    )
    params: dict[str, JsonValue] = Field(default_factory=dict, description="keyword arguments of that function")


class Batch(Section):
    """How a step's samples are cut; what is left out is as the Program says."""

    size: int | None = Field(default=None, ge=1, le=10**9, description="samples of a step, over all nodes")
    microbatch: int | None = Field(default=None, ge=1, le=10**9, description="samples that pass a stage at once")
    block: int = Field(default=1, ge=1, le=10**6, description="microbatches a block, the unit of canonical reduction")


class Nodes(Section):
    """How many nodes, each a pod, the job may have."""

    min: int = Field(default=1, ge=1, le=10_000, description="it trains with no fewer; below that it waits, state held")
    max: int = Field(ge=1, le=10_000, description="it never has more")
    desired: int | None = Field(
        default=None, ge=1, le=10_000, description="how many are asked for; `kubectl scale` sets it; by default max"
    )


class Layout(Section):
    """Wishes for the planner."""

    depth: int | None = Field(default=None, ge=1, le=10_000, description="wanted pipeline depth; planned if left out")
    memory_per_slot: str | None = Field(
        default=None, pattern=r"^[0-9]+(\.[0-9]+)?\s*(|[KMGT]i?B?|B)$", description="that a slot may use, such as 8GiB"
    )


class Timeouts(Section):
    """How long to wait before doubting, in seconds; see the runtime's documentation."""

    lease_ttl: float = Field(default=3.0, gt=0, le=86_400, description="a node whose lease is older is lost")
    probe: float = Field(default=0.5, gt=0, le=86_400, description="a suspected node must answer within this")
    abort: float = Field(default=5.0, gt=0, le=86_400, description="a worker that does not answer an abort is killed")
    progress: float = Field(default=120.0, gt=0, le=86_400, description="a worker without progress is killed")
    start: float = Field(default=60.0, gt=0, le=86_400, description="bound on forming groups and moving layers")
    start_settle: float = Field(default=5.0, gt=0, le=86_400, description="how long the first step waits for nodes")
    orphan: float = Field(default=600.0, gt=0, le=86_400, description="training without the store ends after this")


class SecretRef(Section):
    """A Secret in the job's namespace."""

    name: str = Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", description="its name")


class Rendezvous(Section):
    """The etcd through which the job's nodes find each other."""

    endpoints: tuple[str, ...] = Field(
        min_length=1, max_length=16, description="host:port of each etcd member; every one is tried"
    )
    prefix: str = Field(
        default="holdfast",
        max_length=256,
        pattern=r"^[A-Za-z0-9._/-]*$",
        description="keys lie below it, by namespace",
    )
    tls_secret: SecretRef | None = Field(
        default=None, description="with ca.crt and, for a client certificate, tls.crt and tls.key; TLS is used if given"
    )
    credentials_secret: SecretRef | None = Field(default=None, description="with username and password")


class State(Section):
    """Where state lives beside the nodes' own memory."""

    url: str | None = Field(
        default=None,
        max_length=2048,
        description="for checkpoints and final weights: s3://..., gs://..., file:///...",
    )
    credentials_secret: SecretRef | None = Field(
        default=None, description="its entries become environment variables of the agent (AWS_ACCESS_KEY_ID, ...)"
    )
    copies: int = Field(default=1, ge=0, le=100, description="further copies of each layer in other nodes' memory")
    snapshot_every: int | None = Field(default=None, ge=0, le=10**9, description="steps; automatic if left out; 0: off")
    checkpoint_every: int = Field(default=100, ge=1, le=10**9, description="steps from one checkpoint to the next")
    keep_last: int = Field(default=3, ge=1, le=10**6, description="newest checkpoints that are kept")
    keep_every: int | None = Field(default=None, ge=1, le=10**12, description="those of these steps stay for ever")


class Preemption(Section):
    """How notice of a preemption is told."""

    notice_taints: tuple[str, ...] = Field(
        default=(
            "cloud.google.com/impending-node-termination",
            "aws-node-termination-handler/spot-itn",
            "aws-node-termination-handler/asg-lifecycle-termination",
            "aws-node-termination-handler/rebalance-recommendation",
            "aws-node-termination-handler/scheduled-maintenance",
            "karpenter.sh/disrupted",
            "karpenter.sh/disruption",
            "ToBeDeletedByClusterAutoscaler",
            "DeletionCandidateOfClusterAutoscaler",
            "node.kubernetes.io/unschedulable",
        ),
        max_length=64,
        description="keys of taints after which a node goes away: its pod is drained",
    )
    notice: float = Field(default=25.0, gt=0, le=86_400, description="seconds from the taint to the end")


class RestartPolicy(Section):
    """When failures of pods end the job; disruptions never count."""

    max_failures: int = Field(default=3, ge=0, le=10_000, description="more of them within the window fail the job")
    window: float = Field(default=3600.0, gt=0, le=10**7, description="seconds")
    backoff: float = Field(default=5.0, gt=0, le=86_400, description="seconds before a replacement; doubled each time")
    backoff_max: float = Field(default=300.0, gt=0, le=86_400, description="seconds at most")


class ElasticJobSpec(Section):
    """What is wanted."""

    program: Program | None = Field(default=None, description="what is trained; this or command")
    command: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="instead of `holdfast agent`, in the same environment; it submits the job itself",
    )
    steps: int | None = Field(default=None, gt=0, le=10**12, description="optimizer steps to commit; with program")
    batch: Batch = Field(default_factory=Batch, description="how a step's samples are cut")
    reduction: Literal["canonical", "allreduce"] = Field(
        default="canonical", description="canonical: the sum's bits do not depend on the layout; allreduce: faster"
    )
    device: Literal["cpu", "cuda", "auto"] = Field(default="auto", description="auto: cuda where there is one")
    nodes: Nodes = Field(description="how many nodes the job may have")
    slots_per_node: int = Field(default=1, ge=1, le=1_024, description="worker processes a pod, one per accelerator")
    layout: Layout = Field(default_factory=Layout, description="wishes for the planner")
    timeouts: Timeouts = Field(default_factory=Timeouts, description="how long to wait before doubting, in seconds")
    rendezvous: Rendezvous = Field(description="the etcd through which the job's nodes find each other")
    state: State = Field(default_factory=State, description="where state lives beside the nodes' own memory")
    template: dict[str, Any] = Field(description="PodTemplateSpec; the agent runs in its container `holdfast`")
    preemption: Preemption = Field(default_factory=Preemption, description="how notice of a preemption is told")
    restart_policy: RestartPolicy = Field(default_factory=RestartPolicy, description="when failures end the job")
    start_deadline_seconds: int | None = Field(
        default=None, ge=1, le=10**8, description="fails if fewer than nodes.min ran within this; no bound if left out"
    )
    active_deadline_seconds: int | None = Field(default=None, ge=1, le=10**8, description="fails if not over by then")
    ttl_seconds_after_finished: int | None = Field(
        default=None, ge=0, le=10**8, description="deleted so long after its end; kept if left out"
    )
    suspend: bool = Field(default=False, description="checkpoint and free every pod; false again: go on from there")
    managed_by: str | None = Field(
        default=None, max_length=63, description="left alone by this operator unless holdfast.dev/operator; immutable"
    )
    pod_termination_timeout: float = Field(
        default=60.0,
        gt=0,
        le=86_400,
        description="seconds; a pod in Terminating for longer is removed by force",
    )


class Metadata(Section):
    """What the operator looks at of an object's metadata."""

    name: str
    namespace: str
    uid: str
    generation: int = 1
    created_s: float
    deleted_s: float | None = None


class ElasticJob(Section):
    """One job of the cluster."""

    metadata: Metadata
    spec: ElasticJobSpec
    status: ElasticJobStatus = Field(default_factory=ElasticJobStatus)

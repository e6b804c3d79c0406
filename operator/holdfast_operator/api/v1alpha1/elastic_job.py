"""An `ElasticJob`: what its spec and its status hold. The schema of the CRD is made from this (`crd.py`)."""

import re
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from holdfast_operator.api.v1alpha1.names import JOB_NAME_MAX, OPERATOR
from holdfast_operator.api.v1alpha1.section import Distinct, Listed, Rule, Section
from holdfast_operator.api.v1alpha1.status import ElasticJobStatus
from holdfast_operator.api.v1alpha1.template import Template

__all__ = ["ElasticJob", "ElasticJobSpec", "ElasticJobStatus", "Metadata"]

JOB_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
# A password in a URL, which belongs into a Secret: objects are read by many, and printed.
_PASSWORD_IN_URL = r"^[^/]*//[^/]*:[^/]*@"

# So many nodes that the operator's memory of them fits into the object, of which etcd takes 1.5 MiB.
NODES_MAX = 1_000
Endpoint = Annotated[
    str, Field(max_length=261, pattern=r"^([A-Za-z0-9_][-A-Za-z0-9_.]*|\[[0-9A-Fa-f:.]+\]):[1-9][0-9]{0,4}$")
]
TaintKey = Annotated[
    str, Field(max_length=317, pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
]
Argument = Annotated[str, Field(max_length=8192)]


class Program(Section):
    """Where the Program comes from, in the image."""

    entry: str = Field(
        pattern=r"^[^:]+:[A-Za-z_][A-Za-z0-9_]*$",
        max_length=1024,
        description="module:function or path/file.py:function; a path is relative to the image's working directory",
    )
    params: dict[str, JsonValue] = Field(
        default_factory=dict, max_length=256, description="keyword arguments of that function"
    )


class Batch(Section):
    """How a step's samples are cut; what is left out is as the Program says."""

    size: int | None = Field(default=None, ge=1, le=10**9, description="samples of a step, over all nodes")
    microbatch: int | None = Field(default=None, ge=1, le=10**9, description="samples that pass a stage at once")
    block: int = Field(default=1, ge=1, le=10**6, description="microbatches a block, the unit of canonical reduction")

    rules = (
        Rule(
            cel="!has(self.size) || !has(self.microbatch) || self.size % (self.microbatch * self.block) == 0",
            holds=lambda batch: (
                batch.size is None or batch.microbatch is None or batch.size % (batch.microbatch * batch.block) == 0
            ),
            field="size",
            message="should be a multiple of microbatch times block",
        ),
    )


class Nodes(Section):
    """How many nodes, each a pod, the job may have."""

    min: int = Field(
        default=1, ge=1, le=NODES_MAX, description="it trains with no fewer; below that it waits, state held"
    )
    max: int = Field(ge=1, le=NODES_MAX, description="it never has more")
    desired: int | None = Field(
        default=None, ge=1, le=NODES_MAX, description="how many are asked for; `kubectl scale` sets it; by default max"
    )

    immutable = ("min", "max")
    rules = (
        Rule(
            cel="self.min <= self.max",
            holds=lambda nodes: nodes.min <= nodes.max,
            field="max",
            message="should be at least min",
        ),
        Rule(
            cel="!has(self.desired) || self.desired >= self.min",
            holds=lambda nodes: nodes.desired is None or nodes.desired >= nodes.min,
            field="desired",
            message="should be at least min; to free every node, set suspend",
        ),
        Rule(
            cel="!has(self.desired) || self.desired <= self.max",
            holds=lambda nodes: nodes.desired is None or nodes.desired <= nodes.max,
            field="desired",
            message="should be at most max",
        ),
    )


class Layout(Section):
    """Wishes for the planner."""

    depth: int | None = Field(default=None, ge=1, le=10_000, description="wanted pipeline depth; planned if left out")
    memory_per_slot: str | None = Field(
        default=None,
        max_length=32,
        pattern=r"^[0-9]*[1-9][0-9]*(\.[0-9]+)?\s*(|B|[KMGT](B|iB?))$",
        description="that a slot may use, such as 8GiB",
    )
    adaptive: bool = Field(
        default=True,
        description="less for slots that turn out slow; false: it changes for nodes that come and go alone",
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

    rules = (
        Rule(
            cel="self.orphan >= self.leaseTtl",
            holds=lambda timeouts: timeouts.orphan >= timeouts.lease_ttl,
            field="orphan",
            message="should be at least leaseTtl",
        ),
    )


class SecretRef(Section):
    """A Secret in the job's namespace."""

    name: str = Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", description="its name")


class Rendezvous(Section):
    """The etcd through which the job's nodes find each other."""

    endpoints: Distinct[Endpoint] = Field(
        min_length=1, max_length=16, description="host:port of each etcd member; every one is tried"
    )
    prefix: str = Field(
        default="holdfast",
        max_length=256,
        pattern=r"^([A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*)?$",
        description="keys lie below it, by namespace",
    )
    tls_secret: SecretRef | None = Field(
        default=None, description="with ca.crt and, for a client certificate, tls.crt and tls.key; TLS is used if given"
    )
    credentials_secret: SecretRef | None = Field(default=None, description="with username and password")

    rules = (
        Rule(
            cel="self.endpoints.all(e, int(e.substring(e.lastIndexOf(':') + 1)) <= 65535)",
            holds=lambda rendezvous: all(int(e.rpartition(":")[2]) <= 65535 for e in rendezvous.endpoints),
            field="endpoints",
            message="should have ports from 1 to 65535",
        ),
    )


class State(Section):
    """Where state lives beside the nodes' own memory."""

    url: str | None = Field(
        default=None,
        max_length=2048,
        pattern=r"^[a-z][a-z0-9+.-]*://[^\s?#]+$",
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

    immutable = ("url", "copies", "snapshot_every", "checkpoint_every", "keep_last", "keep_every")
    rules = (
        Rule(
            cel=f"!has(self.url) || !self.url.matches('{_PASSWORD_IN_URL}')",
            holds=lambda state: state.url is None or re.match(_PASSWORD_IN_URL, state.url) is None,
            field="url",
            message="should hold no user and password; put them into a Secret and name it in credentialsSecret",
            reason="FieldValueForbidden",
        ),
        Rule(
            cel="!has(self.url) || !self.url.startsWith('memory:')",
            holds=lambda state: state.url is None or not state.url.startswith("memory:"),
            field="url",
            message="should be a storage that outlives a pod; leave it out for none",
        ),
    )


class Preemption(Section):
    """How notice of a preemption is told."""

    notice_taints: Distinct[TaintKey] = Field(
        default=(
            "cloud.google.com/impending-node-termination",
            "aws-node-termination-handler/spot-itn",
            "aws-node-termination-handler/asg-lifecycle-termination",
            "aws-node-termination-handler/rebalance-recommendation",
            "aws-node-termination-handler/scheduled-maintenance",
            "karpenter.sh/disrupted",
            "karpenter.sh/disruption",
            "ToBeDeletedByClusterAutoscaler",
            "node.kubernetes.io/unschedulable",
        ),
        max_length=64,
        description="keys of taints (NoSchedule, NoExecute) after which a node goes away: its pod is drained",
    )
    notice: float = Field(default=25.0, gt=0, le=86_400, description="seconds from the taint to the end")


class RestartPolicy(Section):
    """When failures of pods end the job; disruptions never count."""

    max_failures: int = Field(default=3, ge=0, le=500, description="more of them within the window fail the job")
    window: float = Field(default=3600.0, gt=0, le=10**7, description="seconds")
    backoff: float = Field(default=5.0, gt=0, le=86_400, description="seconds before a replacement; doubled each time")
    backoff_max: float = Field(default=300.0, gt=0, le=86_400, description="seconds at most")

    rules = (
        Rule(
            cel="self.backoffMax >= self.backoff",
            holds=lambda policy: policy.backoff_max >= policy.backoff,
            field="backoffMax",
            message="should be at least backoff",
        ),
    )


class ElasticJobSpec(Section):
    """What is wanted."""

    program: Program | None = Field(default=None, description="what is trained; this or command")
    command: Listed[Argument] | None = Field(
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
    template: Template = Field(description="PodTemplateSpec; the agent runs in its container `holdfast`")
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
        default=None,
        max_length=63,
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
        description=f"left alone by this operator unless {OPERATOR}; immutable",
    )
    pod_termination_timeout: float = Field(
        default=60.0,
        gt=0,
        le=86_400,
        description="seconds; a pod in Terminating for longer, on a host that does not answer, is removed by force",
    )

    # All that goes into the runtime's job spec: that of a job which began cannot change.
    immutable = (
        "program",
        "command",
        "steps",
        "batch",
        "reduction",
        "device",
        "slots_per_node",
        "layout",
        "timeouts",
        "rendezvous",
        "managed_by",
    )
    rules = (
        Rule(
            cel="has(self.program) || has(self.command)",
            holds=lambda spec: spec.program is not None or spec.command is not None,
            field="program",
            message="should be given, or else command",
            reason="FieldValueRequired",
        ),
        Rule(
            cel="!has(self.program) || !has(self.command)",
            holds=lambda spec: spec.program is None or spec.command is None,
            field="command",
            message="should be left out where program is given",
            reason="FieldValueForbidden",
        ),
        Rule(
            cel="!has(self.program) || has(self.steps)",
            holds=lambda spec: spec.program is None or spec.steps is not None,
            field="steps",
            message="should say how many steps program trains",
            reason="FieldValueRequired",
        ),
        Rule(
            cel="!has(self.command) || !has(self.steps)",
            holds=lambda spec: spec.command is None or spec.steps is None,
            field="steps",
            message="should be left out where command is given, which submits the job itself",
            reason="FieldValueForbidden",
        ),
        Rule(
            cel="!has(self.command) || (!has(self.batch.size) && !has(self.batch.microbatch))",
            holds=lambda spec: spec.command is None or (spec.batch.size is None and spec.batch.microbatch is None),
            field="batch",
            message="should have no size or microbatch where command is given, which submits the job itself",
            reason="FieldValueForbidden",
        ),
    )


class Metadata(Section):
    """What the operator looks at of an object's metadata; not as it is written there."""

    name: str = Field(min_length=1, max_length=JOB_NAME_MAX, pattern=JOB_NAME)
    namespace: str
    uid: str
    resource_version: str = ""
    generation: int = 1
    labels: dict[str, str] = Field(default_factory=dict)
    created_s: float
    deleted_s: float | None = None


class ElasticJob(Section):
    """A training job on nodes that come and go."""

    metadata: Metadata
    spec: ElasticJobSpec
    status: ElasticJobStatus = Field(default_factory=ElasticJobStatus)

"""What is written in the rendezvous store, and by whom.

Every record is JSON with a schema version (`model.wire`). Keys are built by `Keys`.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite

from holdfast.model.ids import NodeId, SlotId, WorkerId
from holdfast.model.measured import Measured, Struck
from holdfast.model.plan import Plan


class StopMode(StrEnum):
    """How the workers of the generation before stop."""

    BOUNDARY = "boundary"  # after the step in flight, together: nobody redoes work
    ABORT = "abort"  # at once: somebody is lost


class Cause(StrEnum):
    """Why a generation began."""

    START = "start"
    LOSS = "loss"
    WORKER_DIED = "worker_died"
    DRAIN = "drain"
    JOIN = "join"
    COMMUNICATION = "communication"
    RESUME = "resume"
    STOP = "stop"
    STALLED = "stalled"
    BALANCE = "balance"


class Action(StrEnum):
    """What the members of a generation do once they hold their layers."""

    TRAIN = "train"
    HOLD = "hold"  # below the minimum: keep the state, wait
    FINISH = "finish"  # write the final weights


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """State after `step` committed steps, the last of them committed in `generation`. Two copies with the same version
    have the same bits under either reduction."""

    step: int
    generation: int

    @property
    def age(self) -> tuple[int, int]:
        """Greater for what came later: a generation may begin at an earlier step than the one before came to."""
        return self.generation, self.step


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What all ranks learn from the vote on one step: enough for a rank that missed the result to roll forward."""

    step: int  # committed steps after it
    loss: float
    grad_norm: float | None  # None unless the Program clips
    time_s: float  # wall clock of the rank that reports it


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRef:
    """One warm worker process. A respawned worker has a new id."""

    slot: SlotId
    worker: WorkerId
    address: str  # host:port of the c10d store it serves
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """nodes/<node>, leased by the agent of that node: only warm workers are listed."""

    node: NodeId
    incarnation: str
    host: str
    port: int
    domain: str
    agent_pid: int
    workers: tuple[WorkerRef, ...]
    died: tuple[WorkerId, ...] = ()  # workers of this agent that died of themselves lately, oldest first
    died_of: tuple[str, ...] = ()  # of each of these, what is known: "killed by SIGSEGV", "exit status 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderRecord:
    """leader, leased: the agent that coordinates."""

    node: NodeId
    incarnation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainRecord:
    """drains/<node>: a planned departure. `released` is set by the coordinator once nothing hangs on the node."""

    node: NodeId
    grace_s: float
    reason: str
    released: bool = False
    incarnation: str = ""  # of the agent that is meant: one that takes the name later stays; "": whoever has it

    def __post_init__(self) -> None:
        if not (isfinite(self.grace_s) and self.grace_s >= 0):
            raise ValueError(f"grace_s is {self.grace_s}; should be a number of seconds, 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRef:
    """A member's agent as the generation found it, so that a later leader can ask after one whose key is gone."""

    node: NodeId
    incarnation: str
    host: str
    port: int
    domain: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How often a node was lost of late, and what follows. It comes back once `wait_steps` more steps than `step` are
    committed (and a while has passed), or when the job cannot go on without it."""

    node: NodeId
    losses: int
    step: int  # committed when it was lost last
    wait_steps: int
    quarantined: bool = False  # until it is pardoned, or needed


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRecord:
    """generation, written by the coordinator under its lease, by compare-and-swap on the one before.

    `lineage` keeps, for the generations since, the step each started from (suffix minima): a version
    committed in an older generation beyond such a start is not part of the history any more.
    `voters`: workers of the newest plan that was started. Until one of them is known to have stopped, they may commit
    among themselves; empty once that is known (`control.fencing`).
    """

    number: int
    members: tuple[WorkerRef, ...]
    leavers: tuple[NodeId, ...]
    stop: StopMode
    cause: Cause
    reason: str
    lineage: tuple[tuple[int, int], ...] = ()  # (generation, start step), ascending in both
    trouble_step: int = 0  # the step at which `trouble` failures in a row were seen
    trouble: int = 0
    voters: tuple[WorkerId, ...] = ()
    agents: tuple[AgentRef, ...] = ()  # of all members, by node
    standings: tuple[Standing, ...] = ()  # by node, of those that were lost of late
    unreachable: tuple[NodeId, ...] = ()  # live nodes left out because members cannot reach them
    unheard: tuple[NodeId, ...] = ()  # given up without a word: what they hold may come back with them
    measured: Measured = field(default_factory=Measured)  # as it was known when the generation began
    struck: Struck | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One layer from a live replica to a slot that lacks it."""

    layer: int
    source: SlotId
    target: SlotId


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """One layer that no live replica sends: from the RAM of one of these nodes' agents, else from the checkpoint."""

    layer: int
    target: SlotId
    sources: tuple[NodeId, ...]  # nearest first


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRecord:
    """start/<generation>, written once all inventories are in."""

    generation: int
    action: Action
    version: Version  # of every layer to start from
    plan: Plan | None  # None while holding
    transfers: tuple[Transfer, ...]
    roll_forward: Commit | None  # slots whose pending version is this step apply it
    redone_steps: int
    initialise: bool  # step 0: layers nobody sends are made from the seed
    reasons: tuple[str, ...] = ()  # why it holds, or why the layout is no better
    restores: tuple[Restore, ...] = ()
    checkpoint: str = ""  # folder of the checkpoint of `version`, if there is one
    kept: Version | None = None  # the newest of which RAM holds every layer: nobody overwrites it
    spare: Version | None = None  # an older one to go back to if `version` is not sound: agents keep it a while
    checkpoint_step: int = 0  # of the newest checkpoint that was begun
    urgent: bool = False  # write a checkpoint of `version` before anything else


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotInventory:
    """What one stopped worker holds."""

    slot: SlotId
    worker: WorkerId
    layers: tuple[int, ...]
    version: Version | None  # of all layers held; None where none is held
    pending: Version | None = None  # voted for with complete gradients, result unknown
    in_flight: bool = False  # a step was begun that did not commit
    commits: tuple[Commit, ...] = ()  # the last few, newest last
    layer_cost_s: tuple[tuple[int, float], ...] = ()  # (layer, seconds of forward and backward a microbatch), measured


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotInventory:
    """Layers of one version of which this node's agent has whole copies in RAM: its own workers', or peers'."""

    version: Version
    layers: tuple[int, ...]


class AckPhase(StrEnum):
    STOPPED = "stopped"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotStart:
    """How a slot got ready in a generation."""

    slot: SlotId
    form_s: float
    move_s: float
    received: tuple[tuple[SlotId, int], ...]  # (source, bytes)
    initialised_layers: int
    restored: tuple[tuple[str, int], ...] = ()  # (where from: a node, "checkpoint"; bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAck:
    """acks/<generation>/<node>."""

    generation: int
    node: NodeId
    incarnation: str
    phase: AckPhase
    inventory: tuple[SlotInventory, ...] = ()  # when stopped
    snapshots: tuple[SnapshotInventory, ...] = ()  # when stopped, oldest first
    starts: tuple[SlotStart, ...] = ()  # when running
    unsound: tuple[str, ...] = ()  # checkpoints of which this node found a blob missing or corrupt
    waits: str = ""  # for the storage that it restores from, and why


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspectRecord:
    """suspects/<generation>/<node>: this node's workers lost contact with somebody."""

    generation: int
    node: NodeId
    detail: str
    stopping: bool = False  # while the generation before was to stop at a boundary: settled once this one starts


@dataclass(frozen=True, slots=True, kw_only=True)
class ReachRecord:
    """reach/<node>, leased: members whose agents do not answer this node's agent. Gone when all of them do."""

    node: NodeId
    incarnation: str
    unreachable: tuple[NodeId, ...]  # sorted, never empty


@dataclass(frozen=True, slots=True, kw_only=True)
class PardonRecord:
    """pardons/<node>: forget how often this node was lost. Taken away by the coordinator once it has."""

    node: NodeId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressRecord:
    """progress, written by the agent of rank 0: the commits since its last write, oldest first, never empty."""

    generation: int
    commits: tuple[Commit, ...]

    def __post_init__(self) -> None:
        if not self.commits:
            raise ValueError("commits is (); should hold at least one")


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRecord:
    """failure: an exception in the user's code; the job ends with it, if the worker took part in what was started last,
    or nothing was started yet."""

    slot: SlotId
    step: int  # the step being computed, counted from 0
    where: str  # layer or phase
    traceback: str
    worker: WorkerId | None = None  # None for one that did not get warm
    generation: int = 0  # the newest that it was told to start


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRecord:
    """stop: somebody wants the job to end at the next step boundary, with its weights written."""

    reason: str


class Result(StrEnum):
    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRecord:
    """outcome: the end of the job. `failure`: the one that ended it, where the user's code did."""

    result: Result
    reason: str
    step: int
    failure: FailureRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadedBlob:
    """One layer in a checkpoint's folder; `chunks`, `chunk_bytes` and `size` as in `holdfast_checkpoint.digest`."""

    layer: int
    path: str
    size: int
    chunk_bytes: int
    chunks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRecord:
    """uploads/<step>-<generation>/<node>: this node's share of a checkpoint is written."""

    node: NodeId
    version: Version
    loss: float | None
    blobs: tuple[UploadedBlob, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRef:
    """A committed checkpoint. One of another run has generation 0: it comes before all that this run does."""

    version: Version
    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointsRecord:
    """checkpoints, written by whoever submits the job, then by the leader: those that can be started from, oldest
    first."""

    committed: tuple[CheckpointRef, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """spec: the validated job spec and what the agents need to know of the Program."""

    spec: dict[str, object]
    base: str  # folder that relative program paths start from, on the machine that submitted the job
    out: str  # folder or URL the final weights are written to; empty: they are kept nowhere
    layer_names: tuple[str, ...]
    layer_bytes: tuple[int, ...]  # parameters, buffers and optimizer state
    microbatches: int
    steps: int
    global_batch: int = 0  # samples a step
    versions: tuple[tuple[str, str], ...] = ()  # (package, version) that all machines must have
    source_sha256: str = ""  # of the file that the Program is in; empty where it is an installed module
    id: str = ""  # of one submission, also found in `out`; empty where the agents are on one machine
    run: str = ""  # of one submission, in the names of its checkpoints
    identity: dict[str, object] = field(default_factory=dict)  # what a checkpoint must have been made with
    profile: str = ""  # what layers cost, as `holdfast profile` writes it; where it is empty all count alike

    def __post_init__(self) -> None:
        if len(self.layer_names) != len(self.layer_bytes):
            raise ValueError("layer_names and layer_bytes should be of one length")

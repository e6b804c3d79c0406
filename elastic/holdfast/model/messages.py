"""What an agent and its workers say to each other, over a unix socket, one frame a message."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from holdfast.model.ids import SlotId, WorkerId
from holdfast.model.records import Commit, GenerationRecord, JobRecord, SlotInventory, SlotStart, StartRecord, Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Agent to worker: stop for `generation`; answered by Parked. `abort`: at once, else after the step in flight."""

    generation: int
    abort: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Agent to worker: take your place in this generation."""

    generation: GenerationRecord
    start: StartRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """Agent to worker: end the process."""

    reason: str


CHECKPOINT = "checkpoint"  # where a restored layer came from, if not from a node


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """Agent to worker: a layer that the start wants restored, whole and verified, in a file in RAM."""

    generation: int
    layer: int
    path: str
    source: str  # a node, or CHECKPOINT


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """Agent to worker: its snapshot of these layers at this version has as many copies at peers as this generation
    wants. A snapshot of the same version before it, of another worker of the slot perhaps, may have had others."""

    generation: int
    version: Version
    layers: tuple[int, ...]  # ascending


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoilt:
    """Agent to worker: its snapshot of this version is not whole, or not any more."""

    version: Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded:
    """Agent to worker: of its snapshot of this version nothing is being uploaded any more."""

    version: Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Worker to agent, once: warm (imported, device ready, layers built on meta)."""

    slot: SlotId
    worker: WorkerId
    pid: int
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """Worker to agent: stopped, as `generation` asked; this is what it holds."""

    generation: int
    inventory: SlotInventory


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """Worker to agent: groups are formed, layers are here, everyone agreed to begin."""

    generation: int
    start: SlotStart


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """Worker to agent: a step is committed here."""

    generation: int
    rank: int
    commit: Commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Paced:
    """Worker to agent: what a microbatch takes of late in each of its layers, forward and backward."""

    generation: int
    layer_s: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotBegun:
    """Worker to agent: it overwrites its snapshots of every version but `kept`."""

    kept: Version | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotBlob:
    """One layer in an open file of the worker; the rest as in `holdfast_checkpoint.digest`."""

    layer: int
    fd: int
    size: int
    chunk_bytes: int
    chunks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshotted:
    """Worker to agent: all its layers are in RAM as of `version`. `loss`: of the step that led to it, where known."""

    version: Version
    blobs: tuple[SnapshotBlob, ...]
    for_checkpoint: bool
    loss: float | None = None
    copy_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """Worker to agent: communication of `generation` broke; waiting for a Stop."""

    generation: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Worker to agent: an exception in the user's code."""

    step: int
    where: str
    traceback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Worker to agent: all steps are committed and this slot's share of the final weights is written."""

    generation: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOrder:
    """Agent to zygote: fork a worker with these."""

    slot: SlotId
    host: str
    socket_path: str
    pulse_path: str
    key: str = field(repr=False)  # hex; seals what workers leave in each other's c10d stores
    job: JobRecord
    ram: str = ""  # the folder for copies in RAM; empty: anonymous memory


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOrder:
    """Launcher of a local run to what nodes are forked from: fork one with these."""

    number: int
    node: str
    arguments: tuple[str, ...]  # of `holdfast agent`
    environment: Mapping[str, str]  # on top of what is there
    secret: str = field(repr=False)  # for the environment of the agent, not of its workers
    log: str  # path to which its processes write


ToWorker = Stop | Start | Exit | Restored | Copied | Spoilt | Uploaded
FromWorker = Ready | Parked | Running | Committed | Paced | SnapshotBegun | Snapshotted | Broken | Failed | Finished

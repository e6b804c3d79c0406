"""What the coordinator wants done, in this order. The shell fences every write by the leader's lease."""

from dataclasses import dataclass

from holdfast.model.ids import NodeId
from holdfast.model.records import (
    CheckpointRef,
    DrainRecord,
    GenerationRecord,
    NodeRecord,
    OutcomeRecord,
    StartRecord,
    UploadedBlob,
    Version,
)


@dataclass(frozen=True, slots=True)
class WriteGeneration:
    """By compare-and-swap on the generation before. `pardons` are honoured by it and deleted with it; `drains` were
    honoured before it, and may be deleted after it as far as they stand there unchanged."""

    record: GenerationRecord
    pardons: tuple[NodeId, ...] = ()
    drains: tuple[DrainRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class WriteStart:
    record: StartRecord


@dataclass(frozen=True, slots=True)
class WriteOutcome:
    record: OutcomeRecord


@dataclass(frozen=True, slots=True)
class ReleaseDrain:
    """Nothing hangs on this node any more: it may go."""

    record: DrainRecord


@dataclass(frozen=True, slots=True)
class ProbeNode:
    """Ask the node's agent whether it lives; what comes of it is ProbeAnswered or NodeRefused."""

    record: NodeRecord


@dataclass(frozen=True, slots=True)
class EvictNode:
    """Delete the node's record, if it is of that incarnation, then revoke its lease. The node counts as gone from here
    on; an agent that lives takes a new lease and joins again."""

    record: NodeRecord
    reason: str


@dataclass(frozen=True, slots=True)
class CommitCheckpoint:
    """All layers of `version` are written: write the manifest, then the list of checkpoints. What comes of it is
    CheckpointsChanged, or CheckpointFailed."""

    version: Version
    blobs: tuple[UploadedBlob, ...]  # by layer
    loss: float | None
    committed: tuple[CheckpointRef, ...]  # before it
    useless: frozenset[str] = frozenset()  # folders among them that turned out corrupt, or of steps gone back from
    in_use: str = ""  # folder of one that may be read just now


Command = WriteGeneration | WriteStart | WriteOutcome | ReleaseDrain | ProbeNode | EvictNode | CommitCheckpoint

"""What a node's session wants its agent to do."""

from dataclasses import dataclass

from holdfast.model.ids import NodeId
from holdfast.model.measured import PaceRecord
from holdfast.model.messages import SnapshotBegun, Snapshotted, ToWorker
from holdfast.model.records import (
    FailureRecord,
    GenerationRecord,
    NodeAck,
    NodeRecord,
    ProgressRecord,
    ReachRecord,
    StartRecord,
    SuspectRecord,
    UploadRecord,
)


@dataclass(frozen=True, slots=True)
class SpawnWorker:
    index: int


@dataclass(frozen=True, slots=True)
class KillWorker:
    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class TellWorker:
    index: int
    message: ToWorker


@dataclass(frozen=True, slots=True)
class PutNode:
    """Written under this node's lease."""

    record: NodeRecord


@dataclass(frozen=True, slots=True)
class PutAck:
    ack: NodeAck


@dataclass(frozen=True, slots=True)
class PutSuspect:
    record: SuspectRecord


@dataclass(frozen=True, slots=True)
class PutProgress:
    record: ProgressRecord


@dataclass(frozen=True, slots=True)
class PutPace:
    record: PaceRecord


@dataclass(frozen=True, slots=True)
class PutFailure:
    record: FailureRecord


@dataclass(frozen=True, slots=True)
class PutUpload:
    record: UploadRecord


@dataclass(frozen=True, slots=True)
class TendTiers:
    """A generation starts: see to the copies that this node fetches, gives and writes. What its workers lack comes
    first; Member.restore_failed is told of what cannot be had."""

    generation: GenerationRecord
    start: StartRecord


@dataclass(frozen=True, slots=True)
class TakeSnapshot:
    """What one of its workers said of its snapshots."""

    index: int
    message: SnapshotBegun | Snapshotted


@dataclass(frozen=True, slots=True)
class ProbeLeader:
    """Find out whether the coordinating agent lives; if its port refuses, revoke its lease."""


@dataclass(frozen=True, slots=True)
class ProbePeers:
    """Ask the agents of these nodes whether they answer; Member.peers_probed takes what comes of it."""

    nodes: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class PutReach:
    """Written under this node's lease."""

    record: ReachRecord


@dataclass(frozen=True, slots=True)
class DropReach:
    """All members are reached again."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Leave:
    """Give back the lease, and end the agent. `refused`: with an error, since this node cannot take part."""

    reason: str
    refused: bool = False


MemberCommand = (
    SpawnWorker
    | KillWorker
    | TellWorker
    | PutNode
    | PutAck
    | PutSuspect
    | PutProgress
    | PutPace
    | PutFailure
    | PutUpload
    | TendTiers
    | TakeSnapshot
    | ProbeLeader
    | ProbePeers
    | PutReach
    | DropReach
    | Leave
)

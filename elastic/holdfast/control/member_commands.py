"""What a node's session wants its agent to do."""

from dataclasses import dataclass

from holdfast.model.ids import NodeId
from holdfast.model.messages import ToWorker
from holdfast.model.records import FailureRecord, NodeAck, NodeRecord, ProgressRecord, ReachRecord, SuspectRecord


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
class PutFailure:
    record: FailureRecord


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
    | PutFailure
    | ProbeLeader
    | ProbePeers
    | PutReach
    | DropReach
    | Leave
)

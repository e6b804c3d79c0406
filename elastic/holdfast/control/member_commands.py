"""What a node's session wants its agent to do."""

from dataclasses import dataclass

from holdfast.model.messages import ToWorker
from holdfast.model.records import FailureRecord, NodeAck, NodeRecord, ProgressRecord, SuspectRecord


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
class Leave:
    """Give back the lease, and end the agent."""

    reason: str


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
    | Leave
)

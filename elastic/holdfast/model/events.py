"""What the coordinator is told. Past tense; time comes with each event, not in it."""

from dataclasses import dataclass

from holdfast.model.ids import NodeId, WorkerId
from holdfast.model.records import (
    DrainRecord,
    FailureRecord,
    NodeAck,
    NodeRecord,
    ProgressRecord,
    SuspectRecord,
)


@dataclass(frozen=True, slots=True)
class NodeChanged:
    """A node's record appeared, changed, or is gone (None): left, or its lease ended."""

    node: NodeId
    record: NodeRecord | None


@dataclass(frozen=True, slots=True)
class DrainChanged:
    node: NodeId
    record: DrainRecord | None


@dataclass(frozen=True, slots=True)
class AckReceived:
    ack: NodeAck


@dataclass(frozen=True, slots=True)
class ProgressMade:
    record: ProgressRecord


@dataclass(frozen=True, slots=True)
class ContactLost:
    suspect: SuspectRecord


@dataclass(frozen=True, slots=True)
class ProbeAnswered:
    """`workers`: the live workers of a node that answered; None where it gave no answer in time."""

    node: NodeId
    incarnation: str
    workers: tuple[WorkerId, ...] | None


@dataclass(frozen=True, slots=True)
class StopRequested:
    reason: str


@dataclass(frozen=True, slots=True)
class UserCodeFailed:
    record: FailureRecord


@dataclass(frozen=True, slots=True)
class TimePassed:
    """A wake-up that the coordinator asked for."""


Event = (
    NodeChanged
    | DrainChanged
    | AckReceived
    | ProgressMade
    | ContactLost
    | ProbeAnswered
    | StopRequested
    | UserCodeFailed
    | TimePassed
)

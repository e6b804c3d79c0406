"""What the coordinator is told. Past tense; time comes with each event, not in it."""

from dataclasses import dataclass

from holdfast.model.ids import NodeId, WorkerId
from holdfast.model.measured import PaceRecord
from holdfast.model.records import (
    CheckpointsRecord,
    DrainRecord,
    FailureRecord,
    NodeAck,
    NodeRecord,
    ProgressRecord,
    ReachRecord,
    SuspectRecord,
    UploadRecord,
    Version,
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
class PaceTold:
    record: PaceRecord


@dataclass(frozen=True, slots=True)
class ContactLost:
    suspect: SuspectRecord


@dataclass(frozen=True, slots=True)
class ProbeAnswered:
    """`workers`: the live workers of a node that answered; None where it gave no answer in time. `asked`: those in the
    record that was asked about. Of others, which may have got ready since, the answer says nothing."""

    node: NodeId
    incarnation: str
    workers: tuple[WorkerId, ...] | None
    asked: tuple[WorkerId, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeRefused:
    """Nobody listens where this agent listened all its life: it is dead, and its workers died with it."""

    node: NodeId
    incarnation: str


@dataclass(frozen=True, slots=True)
class ReachChanged:
    """Whom a node's agent cannot reach; None: it reaches everyone again, or is gone."""

    node: NodeId
    record: ReachRecord | None


@dataclass(frozen=True, slots=True)
class PardonChanged:
    """Somebody wants a node's losses forgotten; `given` False: the key is gone."""

    node: NodeId
    given: bool


@dataclass(frozen=True, slots=True)
class UploadReported:
    """A node has written its share of a checkpoint."""

    record: UploadRecord


@dataclass(frozen=True, slots=True)
class CheckpointsChanged:
    """These can be started from; `None`: the key is gone."""

    record: CheckpointsRecord | None


@dataclass(frozen=True, slots=True)
class CheckpointFailed:
    """The storage did not take its manifest."""

    version: Version


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
    | PaceTold
    | ContactLost
    | ProbeAnswered
    | NodeRefused
    | ReachChanged
    | PardonChanged
    | UploadReported
    | CheckpointsChanged
    | CheckpointFailed
    | StopRequested
    | UserCodeFailed
    | TimePassed
)

"""From what stands in the store to events: the one place that knows which key means what."""

from collections.abc import Iterator
from typing import TypeVar

from holdfast.errors import ProtocolError
from holdfast.model.events import (
    AckReceived,
    CheckpointsChanged,
    ContactLost,
    DrainChanged,
    Event,
    NodeChanged,
    PaceTold,
    PardonChanged,
    ProgressMade,
    ReachChanged,
    StopRequested,
    UploadReported,
    UserCodeFailed,
)
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.model.measured import PaceRecord
from holdfast.model.records import (
    CheckpointsRecord,
    DrainRecord,
    FailureRecord,
    NodeAck,
    NodeRecord,
    ProgressRecord,
    ReachRecord,
    StopRecord,
    SuspectRecord,
    UploadRecord,
)
from holdfast.model.wire import decode

_Record = TypeVar("_Record", NodeRecord, DrainRecord, ReachRecord)


def events_of(keys: Keys, key: str, value: bytes | None) -> Iterator[Event]:
    """Events for the coordinator from one key; `value` is None where it was deleted.

    Raises:
        ProtocolError: the value is not what belongs under that key.
    """
    kind, _, rest = key.removeprefix(keys.prefix).partition("/")
    match kind:
        case "nodes":
            yield NodeChanged(NodeId(rest), _of_node(NodeRecord, rest, value))
        case "drains":
            yield DrainChanged(NodeId(rest), _of_node(DrainRecord, rest, value))
        case "reach":
            yield ReachChanged(NodeId(rest), _of_node(ReachRecord, rest, value))
        case "pardons":
            yield PardonChanged(NodeId(rest), value is not None)
        case "acks" if value is not None:
            yield AckReceived(decode(NodeAck, value))
        case "suspects" if value is not None:
            yield ContactLost(decode(SuspectRecord, value))
        case "progress" if value is not None:
            yield ProgressMade(decode(ProgressRecord, value))
        case "paces" if value is not None:
            yield PaceTold(decode(PaceRecord, value))
        case "uploads" if value is not None:
            yield UploadReported(decode(UploadRecord, value))
        case "checkpoints":
            yield CheckpointsChanged(decode(CheckpointsRecord, value) if value is not None else None)
        case "failure" if value is not None:
            yield UserCodeFailed(decode(FailureRecord, value))
        case "stop" if value is not None:
            yield StopRequested(decode(StopRecord, value).reason)
        case _:
            return  # written by coordinators, or not for them


def _of_node(kind: type[_Record], node: str, value: bytes | None) -> _Record | None:
    """A record that names the node it stands under; None where it was deleted."""
    if value is None:
        return None
    record = decode(kind, value)
    if record.node != node:
        raise ProtocolError(f"a {kind.__name__} of {record.node!r} stands under {node!r}")
    return record

"""From what stands in the store to events: the one place that knows which key means what."""

from collections.abc import Iterator

from holdfast.model.events import (
    AckReceived,
    ContactLost,
    DrainChanged,
    Event,
    NodeChanged,
    ProgressMade,
    StopRequested,
    UserCodeFailed,
)
from holdfast.model.ids import NodeId
from holdfast.model.records import (
    DrainRecord,
    FailureRecord,
    Keys,
    NodeAck,
    NodeRecord,
    ProgressRecord,
    StopRecord,
    SuspectRecord,
)
from holdfast.model.wire import decode


def events_of(keys: Keys, key: str, value: bytes | None) -> Iterator[Event]:
    """Events for the coordinator from one key; `value` is None where it was deleted.

    Raises:
        ProtocolError: the value is not what belongs under that key.
    """
    kind, _, rest = key.removeprefix(keys.prefix).partition("/")
    match kind:
        case "nodes":
            yield NodeChanged(NodeId(rest), None if value is None else decode(NodeRecord, value))
        case "drains":
            yield DrainChanged(NodeId(rest), None if value is None else decode(DrainRecord, value))
        case "acks" if value is not None:
            yield AckReceived(decode(NodeAck, value))
        case "suspects" if value is not None:
            yield ContactLost(decode(SuspectRecord, value))
        case "progress" if value is not None:
            yield ProgressMade(decode(ProgressRecord, value))
        case "failure" if value is not None:
            yield UserCodeFailed(decode(FailureRecord, value))
        case "stop" if value is not None:
            yield StopRequested(decode(StopRecord, value).reason)
        case _:
            return  # written by coordinators, or not for them

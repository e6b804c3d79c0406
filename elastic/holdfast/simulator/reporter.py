"""What a fake agent has to say to the store: holdfast.agent.reporting without asyncio. One write an action.

Reports go out in order, each again and again until it is written; progress is merged while it waits.
"""

from collections import deque

from holdfast.control.member_commands import (
    DropReach,
    PutAck,
    PutFailure,
    PutNode,
    PutPace,
    PutProgress,
    PutReach,
    PutSuspect,
    PutUpload,
)
from holdfast.errors import LeaseExpiredError, StoreUnavailableError
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.model.records import ProgressRecord
from holdfast.model.wire import encode
from holdfast.ports.store import Delete, Operation, Put
from holdfast.simulator.network import Channel
from holdfast.simulator.storeside import StoreSide

Report = PutNode | PutAck | PutSuspect | PutReach | DropReach | PutProgress | PutPace | PutFailure | PutUpload


class Reporter:
    def __init__(self, store: StoreSide, keys: Keys, node: NodeId) -> None:
        self.channel = Channel()
        self._store, self._keys, self._node = store, keys, node
        self._waiting: deque[Report] = deque()
        self._writing: Report | None = None

    @property
    def is_idle(self) -> bool:
        return self._writing is None and not self._waiting

    def say(self, report: Report) -> None:
        last = self._waiting[-1] if self._waiting else None
        if (
            isinstance(report, PutProgress)
            and isinstance(last, PutProgress)
            and last.record.generation == report.record.generation
        ):
            commits = (*last.record.commits, *report.record.commits)
            self._waiting[-1] = PutProgress(ProgressRecord(generation=report.record.generation, commits=commits))
        else:
            self._waiting.append(report)

    def can_write(self, now_s: float) -> bool:
        return not self.is_idle and now_s >= self.channel.ready_at_s and self._store.hears(self._node)

    def write(self, lease: int, now_s: float) -> str:
        """Of a node's record, under the lease that its agent has by now."""
        self._writing = self._writing or self._waiting.popleft()
        self._store.pause(self.channel, now_s)
        operation = self._entry(self._writing, lease)
        said = operation.key.removeprefix(self._keys.prefix)
        try:
            self._store.transact([], [operation], by=self._node)
        except StoreUnavailableError as error:
            self._store.back_off(self.channel, now_s)
            return f"{said}: {error}"
        except LeaseExpiredError:
            self._writing = None
            return f"{said}: lease {lease} is gone"
        self._writing = None
        return said

    def _entry(self, report: Report, lease: int) -> Operation:
        keys = self._keys
        match report:
            case PutNode(record):
                return Put(key=keys.node(record.node), value=encode(record), lease=lease)
            case PutAck(ack):
                return Put(key=keys.ack(ack.generation, ack.node), value=encode(ack))
            case PutSuspect(suspect):
                return Put(key=keys.suspect(suspect.generation, suspect.node), value=encode(suspect))
            case PutReach(reach):
                return Put(key=keys.reach(reach.node), value=encode(reach), lease=lease)
            case DropReach(node):
                return Delete(key=keys.reach(node))
            case PutProgress(progress):
                return Put(key=keys.one("progress"), value=encode(progress))
            case PutPace(pace):
                return Put(key=keys.pace(pace.generation, pace.node), value=encode(pace))
            case PutUpload(upload):
                return Put(key=keys.upload(upload.version, upload.node), value=encode(upload))
            case PutFailure(failure):
                return Put(key=keys.one("failure"), value=encode(failure))

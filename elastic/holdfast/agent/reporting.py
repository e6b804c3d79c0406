"""Writes what the node has to say to the store, in order, again and again until it is written.

Commits that pile up behind a slow or absent store go out together, in batches that fit into a record, one after the
other: who watches sees each. Of everything else only what is newest is kept, so that what waits stays bounded.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from holdfast.agent.following import surely
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
from holdfast.errors import LeaseExpiredError
from holdfast.model.keys import Keys
from holdfast.model.records import ProgressRecord
from holdfast.model.wire import encode
from holdfast.ports.store import Store

log = logging.getLogger(__name__)
Report = PutNode | PutAck | PutSuspect | PutReach | DropReach | PutProgress | PutPace | PutFailure | PutUpload
# A record of so many commits has about 50 kB; a store takes 1 MB at most.
_COMMITS_A_BATCH = 500
# An hour without a store, at 50 steps a second; about 40 MB.
_BATCHES_MAX = 360


class Reporter:
    """One task writes; anyone says."""

    def __init__(self, store: Store, keys: Keys, lease: Callable[[], int]) -> None:
        self._store, self._keys, self._lease = store, keys, lease
        self._waiting: deque[Report] = deque()
        self._more = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def say(self, report: Report) -> None:
        waiting = self._waiting
        if isinstance(report, PutProgress):
            last = waiting[-1] if waiting else None
            if isinstance(last, PutProgress) and _fit_together(last.record, report.record):
                commits = (*last.record.commits, *report.record.commits)
                waiting[-1] = PutProgress(ProgressRecord(generation=report.record.generation, commits=commits))
            else:
                waiting.append(report)
                self._forget_oldest()
        else:
            # What stands under a key is superseded by what is said of it later. A node's record keeps its place: acks
            # count only after it. All else comes last: an end is not told before the steps that led to it.
            place = next((n for n, said in enumerate(waiting) if _subject(said) == _subject(report)), None)
            if place is not None and isinstance(report, PutNode):
                waiting[place] = report
            else:
                if place is not None:
                    del waiting[place]
                waiting.append(report)
        self._idle.clear()
        self._more.set()

    def _forget_oldest(self) -> None:
        """Of a store that is away for days not all is kept: the job goes on, its report lacks those losses."""
        batches = [report for report in self._waiting if isinstance(report, PutProgress)]
        if len(batches) > _BATCHES_MAX:
            self._waiting.remove(batches[0])
            log.error("report.forgotten", extra={"commits": len(batches[0].record.commits)})

    async def flush(self, timeout_s: float) -> None:
        """Wait until all that was said is written, at most so long."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            log.warning("report.unwritten", extra={"count": len(self._waiting)})

    async def run(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            while self._waiting:
                report = self._waiting.popleft()
                await self._write_surely(report)
            self._idle.set()

    async def _write_surely(self, report: Report) -> None:
        try:
            await surely(lambda: self._write(report), "report")
        except LeaseExpiredError:
            return  # the session takes a new lease and registers the node anew
        except ValueError as error:
            # One that the store will never take must not keep back what comes after it.
            log.error("report.refused", extra={"report": type(report).__name__, "error": str(error)})

    async def _write(self, report: Report) -> None:
        if isinstance(report, DropReach):
            await self._store.delete(self._keys.reach(report.node))
        else:
            await self._store.put(*self._entry(report))

    def _entry(
        self, report: PutNode | PutAck | PutSuspect | PutReach | PutProgress | PutPace | PutFailure | PutUpload
    ) -> tuple[str, bytes, int]:
        keys = self._keys
        match report:
            case PutNode(record):
                return keys.node(record.node), encode(record), self._lease()
            case PutAck(ack):
                return keys.ack(ack.generation, ack.node), encode(ack), 0
            case PutSuspect(record):
                return keys.suspect(record.generation, record.node), encode(record), 0
            case PutReach(record):
                return keys.reach(record.node), encode(record), self._lease()
            case PutProgress(record):
                return keys.one("progress"), encode(record), 0
            case PutPace(record):
                return keys.pace(record.generation, record.node), encode(record), 0
            case PutUpload(record):
                return keys.upload(record.version, record.node), encode(record), 0
            case PutFailure(record):
                return keys.one("failure"), encode(record), 0


def _fit_together(first: ProgressRecord, second: ProgressRecord) -> bool:
    fits = len(first.commits) + len(second.commits) <= _COMMITS_A_BATCH
    return first.generation == second.generation and fits


def _subject(report: Report) -> object:
    """Equal for reports of which a later one says all that an earlier one said."""
    match report:
        case PutNode() | PutFailure() | PutProgress() | PutPace() | PutUpload():
            return type(report)
        case PutReach() | DropReach():
            return PutReach
        case PutAck(ack):
            return PutAck, ack.generation
        case PutSuspect(record):
            return PutSuspect, record.generation, record.stopping

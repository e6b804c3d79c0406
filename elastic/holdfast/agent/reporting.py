"""Writes what the node has to say to the store, in order, again and again until it is written.

Commits that pile up behind a slow or absent store go out together.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from holdfast.control.member_commands import PutAck, PutFailure, PutNode, PutProgress, PutSuspect
from holdfast.errors import LeaseExpiredError, StoreUnavailableError
from holdfast.model.records import Keys, ProgressRecord
from holdfast.model.wire import encode
from holdfast.ports.store import Store

log = logging.getLogger(__name__)
Report = PutNode | PutAck | PutSuspect | PutProgress | PutFailure


class Reporter:
    """One task writes; anyone says."""

    def __init__(self, store: Store, keys: Keys, lease: Callable[[], int]) -> None:
        self._store, self._keys, self._lease = store, keys, lease
        self._waiting: deque[Report] = deque()
        self._more = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

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
        self._idle.clear()
        self._more.set()

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
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailableError),
            wait=wait_random_exponential(multiplier=0.05, max=1.0),
            before_sleep=lambda state: log.warning("report.unwritten", extra={"attempt": state.attempt_number}),
        )
        try:
            async for attempt in attempts:
                with attempt:
                    await self._store.put(*self._entry(report))
        except LeaseExpiredError:
            return  # the session takes a new lease and registers the node anew

    def _entry(self, report: Report) -> tuple[str, bytes, int]:
        keys = self._keys
        match report:
            case PutNode(record):
                return keys.node(record.node), encode(record), self._lease()
            case PutAck(ack):
                return keys.ack(ack.generation, ack.node), encode(ack), 0
            case PutSuspect(record):
                return keys.suspect(record.generation, record.node), encode(record), 0
            case PutProgress(record):
                return keys.one("progress"), encode(record), 0
            case PutFailure(record):
                return keys.one("failure"), encode(record), 0

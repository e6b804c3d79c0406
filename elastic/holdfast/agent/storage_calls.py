"""Calls to remote storage, on threads of their own: one that hangs keeps its thread, and nothing else waits for it.

Rule: however many calls hang, only `threads` do. Who asks for more waits until one returns, and gives up in time.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from holdfast_checkpoint.aside import call_aside
from holdfast_checkpoint.errors import StorageBusyError

T = TypeVar("T")
log = logging.getLogger(__name__)


class StorageCalls:
    """Of one agent, for one purpose, so that what hangs in one holds up no other."""

    def __init__(self, purpose: str, threads: int) -> None:
        self._purpose, self._threads = purpose, threads
        self._free = asyncio.Semaphore(threads)
        self._given_up: dict[Future[Any], float] = {}  # that have not returned, and since when
        self._running: set[Future[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    async def call(self, work: Callable[[], T], within_s: float) -> T:
        """What `work` returns. It goes on, and keeps its thread, where it is given up or this is cancelled.

        Raises:
            StorageBusyError: not over within `within_s`, its wait for a thread included.
            what `work` raises.
        """
        until_s = time.monotonic() + within_s
        try:
            async with asyncio.timeout(within_s):
                await self._free.acquire()
        except TimeoutError:
            raise StorageBusyError(self._all_busy(within_s)) from None
        if time.monotonic() >= until_s:
            self._free.release()
            raise StorageBusyError(f"no time is left for this {self._purpose}")
        call, ended = call_aside(work, f"storage-{self._purpose}"), asyncio.Event()
        self._running.add(call)
        self._idle.clear()
        call.add_done_callback(partial(_tell, asyncio.get_running_loop(), partial(self._ended, call, ended)))
        try:
            async with asyncio.timeout(until_s - time.monotonic()):
                await ended.wait()
        except TimeoutError:
            if not call.done():
                self._give_up(call)
                text = f"the storage has not come to an end with this {self._purpose} after {within_s:g} s"
                raise StorageBusyError(f"{text}: given up") from None
        except asyncio.CancelledError:
            self._give_up(call)
            raise
        try:
            return call.result()
        finally:
            del call  # its error, if it has one, holds this frame

    async def settle(self, within_s: float) -> None:
        """Until nothing is under way any more, at most so long."""
        try:
            async with asyncio.timeout(within_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("storage.left_behind", extra={"purpose": self._purpose, "calls": len(self._running)})

    def _give_up(self, call: Future[T]) -> None:
        if not call.done():
            self._given_up[call] = time.monotonic()
            extra = {"purpose": self._purpose, "hanging": len(self._given_up), "threads": self._threads}
            log.warning("storage.given_up", extra=extra)

    def _ended(self, call: Future[T], ended: asyncio.Event) -> None:
        ended.set()
        self._running.discard(call)
        if not self._running:
            self._idle.set()
        self._free.release()
        since_s = self._given_up.pop(call, None)
        if since_s is not None:
            call.exception()  # of no interest any more
            log.info("storage.returned", extra={"purpose": self._purpose, "seconds": time.monotonic() - since_s})

    def _all_busy(self, within_s: float) -> str:
        text = f"no thread came free within {within_s:g} s for this {self._purpose}"
        if self._given_up:
            since_s = time.monotonic() - min(self._given_up.values())
            text += f": {len(self._given_up)} of {self._threads} hang in calls to the storage, since {since_s:.0f} s"
        return text


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[], None], _: object) -> None:
    """On the call's thread. Where the loop is closed nobody is left who wants to know."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(what)

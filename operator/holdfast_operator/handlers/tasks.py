"""Tasks that come and go while their owner runs; one that fails ends the owner."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, NoReturn

log = logging.getLogger(__name__)


class Tasks:
    """Build it inside a running event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        _ = self.begin(work, name)

    def begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """As `start`, for who ends it."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def failure(self) -> NoReturn:
        """Raises what the first task that fails raises; waits for it."""
        raise await asyncio.shield(self._failed)

    async def close(self) -> None:
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("task.failed", extra={"task": task.get_name()}, exc_info=error)
            if not self._failed.done():
                self._failed.set_result(error)


async def stop(task: asyncio.Task[None] | None) -> None:
    """Cancel it and wait until it has ended."""
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

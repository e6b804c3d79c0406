"""Waiting for what has no event."""

import asyncio
import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], object],
    within_s: float = 240.0,
    *,
    what: Callable[[], str] = lambda: "what is waited for",
    every_s: float = 0.02,
) -> None:
    """The same for tests without an event loop, about other processes; `what` is asked only when it does not come."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {within_s} s: {what()}"
        time.sleep(every_s)  # polling; the deadline above bounds it


async def until(condition: Callable[[], object], what: str = "what is waited for", within_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.005)

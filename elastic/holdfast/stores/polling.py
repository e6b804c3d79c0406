"""A watch made of polls: its whole state is the revision to ask from next, so it cannot miss or repeat.

That state changes only after a poll was answered. A poll that was cancelled, or lost with its connection,
is therefore simply asked again.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

from holdfast.ports.store import WatchEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Polled:
    """Every event before `next_revision` is in `batches` (one per revision) or was there already.

    `next_revision` may be ahead of the last batch: so a watch of a quiet prefix keeps up with compaction.
    """

    batches: tuple[tuple[WatchEvent, ...], ...]
    next_revision: int


class PolledWatch:
    """The async iterator that `Store.watch` returns. `poll` waits for events at or after a revision."""

    def __init__(self, poll: Callable[[int], Awaitable[Polled]], from_revision: int) -> None:
        if from_revision < 1:
            raise ValueError(f"from_revision is {from_revision}; the first revision is 1")
        self._poll = poll
        self._next_revision = from_revision
        self._ready: deque[tuple[WatchEvent, ...]] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[WatchEvent, ...]:
        while not self._ready:
            polled = await self._poll(self._next_revision)
            self._next_revision = polled.next_revision
            self._ready.extend(polled.batches)
        return self._ready.popleft()

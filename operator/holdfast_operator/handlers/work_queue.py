"""Which job is looked at next: each by one worker at a time, and once for whatever happened to it meanwhile.

Rule: what is added while it is worked on is worked on again afterwards, so nothing that happened is ever missed. What
failed waits out its pause, but for news: an echo of its own work is none.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """After the n-th failure in a row: `first_s` doubled n - 1 times, at most `most_s`."""

    first_s: float = 0.25
    most_s: float = 60.0

    def pause_s(self, failures: int) -> float:
        return float(min(self.most_s, self.first_s * 2 ** min(failures - 1, 30)))


@dataclass(slots=True)
class _Entry:
    added_s: float | None = None  # when it was asked for, by whatever came first; None: it is not
    due_s: float | None = None  # when it is to be asked for by itself
    is_taken: bool = False
    echo_s: float | None = None  # when, while it is worked on, an echo of that came
    failures: int = 0


@dataclass(slots=True)
class KeyedQueue(Generic[K]):
    """The queue itself, without waiting: every method takes the present time."""

    backoff: Backoff = field(default_factory=Backoff)
    _entries: dict[K, _Entry] = field(default_factory=dict)
    _ready: deque[K] = field(default_factory=deque)
    _due: list[tuple[float, int, K]] = field(default_factory=list)  # a heap; some of it out of date
    _count: int = 0

    def __len__(self) -> int:
        """Keys that could be taken now."""
        return len(self._ready)

    def add_echo(self, key: K, now_s: float) -> None:
        """As `add`, unless it waits after a failure."""
        entry = self._entries.setdefault(key, _Entry())
        if entry.is_taken:
            entry.echo_s = now_s if entry.echo_s is None else entry.echo_s
        elif not entry.failures:
            self.add(key, now_s)

    def add(self, key: K, now_s: float) -> None:
        entry = self._entries.setdefault(key, _Entry())
        if entry.added_s is None:
            entry.added_s = now_s
            if not entry.is_taken:
                self._ready.append(key)

    def add_later(self, key: K, due_s: float) -> None:
        """At `due_s`, unless it is due before that."""
        entry = self._entries.setdefault(key, _Entry())
        if entry.due_s is None or due_s < entry.due_s:
            entry.due_s = due_s
            self._count += 1  # so that no keys are compared
            heapq.heappush(self._due, (due_s, self._count, key))

    def take(self, now_s: float) -> tuple[K, float] | None:
        """A key, and since when it waits; nobody else gets it before `done`. It is due no more."""
        self._ripen(now_s)
        if not self._ready:
            return None
        key = self._ready.popleft()
        entry = self._entries[key]
        added_s = entry.added_s if entry.added_s is not None else now_s
        entry.added_s, entry.due_s, entry.echo_s, entry.is_taken = None, None, None, True
        return key, added_s

    def done(self, key: K, now_s: float, *, failed: bool, after_s: float = 0.0) -> float:
        """Seconds until it is tried again because it failed, at least `after_s` up to the longest pause; 0 where it did
        not fail."""
        entry = self._entries[key]
        entry.is_taken = False
        entry.failures = entry.failures + 1 if failed else 0
        pause_s = 0.0
        if failed:
            pause_s = max(self.backoff.pause_s(entry.failures), min(after_s, self.backoff.most_s))
            self.add_later(key, now_s + pause_s)
        elif entry.added_s is None:
            entry.added_s = entry.echo_s
        entry.echo_s = None
        if entry.added_s is not None:
            self._ready.append(key)
        elif entry.due_s is None:
            del self._entries[key]
        return pause_s

    def put_off(self, key: K, due_s: float) -> None:
        """It was taken too early: in place of `done`, and neither success nor failure."""
        self._entries[key].is_taken = False
        self.add_later(key, due_s)

    def next_due_s(self) -> float | None:
        while self._due and self._is_stale(*self._due[0]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def _ripen(self, now_s: float) -> None:
        while (due_s := self.next_due_s()) is not None and due_s <= now_s:
            _, _, key = heapq.heappop(self._due)
            self._entries[key].due_s = None
            self.add(key, due_s)

    def _is_stale(self, due_s: float, _: int, key: K) -> bool:
        entry = self._entries.get(key)
        return entry is None or entry.due_s != due_s


class WorkQueue(Generic[K]):
    """For workers that wait. `depth` is told how many keys could be taken."""

    def __init__(self, backoff: Backoff | None = None, depth: Callable[[int], None] = lambda _: None) -> None:
        self._queue: KeyedQueue[K] = KeyedQueue(backoff=backoff or Backoff())
        self._depth, self._loop = depth, asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._alarm: asyncio.TimerHandle | None = None

    def add(self, key: K) -> None:
        self._queue.add(key, self._loop.time())
        self._wake()

    def add_echo(self, key: K) -> None:
        self._queue.add_echo(key, self._loop.time())
        self._wake()

    def add_after(self, key: K, seconds: float) -> None:
        self._queue.add_later(key, self._loop.time() + seconds)
        self._wake()

    async def take(self) -> tuple[K, float]:
        """Waits for one; with it since when, on the loop's clock, it waited."""
        while True:
            taken = self._queue.take(self._loop.time())
            if taken is not None:
                self._wake()  # several may have come due at once
                return taken
            self._set_alarm()
            waiting = self._loop.create_future()
            self._waiting.append(waiting)
            try:
                await waiting
            finally:
                if waiting in self._waiting:
                    self._waiting.remove(waiting)

    def done(self, key: K, *, failed: bool = False, after_s: float = 0.0) -> float:
        """Seconds until it is tried again, at least `after_s` if it failed; 0 unless it did."""
        pause_s = self._queue.done(key, self._loop.time(), failed=failed, after_s=after_s)
        self._wake()
        return pause_s

    def put_off(self, key: K, seconds: float) -> None:
        self._queue.put_off(key, self._loop.time() + seconds)
        self._wake()

    def _wake(self) -> None:
        self._depth(len(self._queue))
        for _ in range(min(len(self._queue), len(self._waiting))):
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
        self._set_alarm()

    def _set_alarm(self) -> None:
        """Wakes a worker when the first key is due."""
        due_s = self._queue.next_due_s()
        if self._alarm is not None:
            if self._alarm.when() == due_s:
                return
            self._alarm.cancel()
        self._alarm = self._loop.call_at(due_s, self._ring) if due_s is not None else None

    def _ring(self) -> None:
        self._alarm = None
        if self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)

"""The queue on a clock of the test's own, and what waits for it on the loop's."""

import asyncio
from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from holdfast_operator.handlers.work_queue import Backoff, KeyedQueue, WorkQueue


def queue() -> KeyedQueue[str]:
    return KeyedQueue(backoff=Backoff(first_s=1.0, most_s=5.0))


def test_what_is_added_again_before_it_is_taken_is_taken_once() -> None:
    one = queue()
    one.add("a", 1.0)
    one.add("a", 2.0)
    assert one.take(3.0) == ("a", 1.0)
    assert one.take(3.0) is None


def test_what_is_added_while_it_is_worked_on_is_taken_again_only_after_it_is_done() -> None:
    one = queue()
    one.add("a", 0.0)
    one.take(0.0)
    one.add("a", 1.0)
    assert one.take(2.0) is None
    one.done("a", 3.0, failed=False)
    assert one.take(3.0) == ("a", 1.0)


def test_the_earliest_of_several_times_counts() -> None:
    one = queue()
    for due_s in (9.0, 4.0, 6.0):
        one.add_later("a", due_s)
    assert one.next_due_s() == 4.0
    assert one.take(3.9) is None
    assert one.take(4.0) == ("a", 4.0)
    one.done("a", 4.0, failed=False)
    assert one.take(20.0) is None


def test_what_was_due_later_is_settled_by_taking_it_sooner() -> None:
    one = queue()
    one.add_later("a", 10.0)
    one.add("a", 1.0)
    one.take(1.0)
    one.done("a", 2.0, failed=False)
    assert one.next_due_s() is None


def test_failures_in_a_row_wait_longer_and_longer_up_to_a_bound() -> None:
    one, pauses = queue(), []
    one.add("a", 0.0)
    now_s = 0.0
    for _ in range(5):
        assert one.take(now_s) is not None
        pauses.append(one.done("a", now_s, failed=True))
        assert one.take(now_s + pauses[-1] - 0.01) is None
        now_s += pauses[-1]
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0]
    one.take(now_s)
    one.done("a", now_s, failed=False)
    one.add("a", now_s)
    one.take(now_s)
    assert one.done("a", now_s, failed=True) == 1.0


def test_an_echo_of_what_failed_does_not_cut_its_pause_short_and_news_does() -> None:
    one = queue()
    for echo_s, in_time in ((0.5, True), (1.5, False)):  # while it is worked on, and after it
        one.add("a", 0.0)
        one.take(0.0)
        if in_time:
            one.add_echo("a", echo_s)
        assert one.done("a", 1.0, failed=True) > 0
        if not in_time:
            one.add_echo("a", echo_s)
        assert one.take(1.9) is None
    one.add("a", 1.9)
    assert one.take(1.9) == ("a", 1.9)


def test_an_echo_of_what_went_well_is_looked_at() -> None:
    one = queue()
    one.add("a", 0.0)
    one.take(0.0)
    one.add_echo("a", 1.0)
    one.done("a", 2.0, failed=False)
    assert one.take(2.0) == ("a", 1.0)
    one.done("a", 3.0, failed=False)
    one.add_echo("a", 4.0)
    assert one.take(4.0) == ("a", 4.0)


def test_a_failure_waits_as_long_as_it_was_told_to_up_to_the_longest_pause() -> None:
    one = queue()
    one.add("a", 0.0)
    one.take(0.0)
    assert one.done("a", 0.0, failed=True, after_s=3.0) == 3.0
    one.take(3.0)
    assert one.done("a", 3.0, failed=True, after_s=1e9) == 5.0


def test_what_is_put_off_is_due_later_and_has_failed_as_often_as_before() -> None:
    one = queue()
    one.add("a", 0.0)
    one.take(0.0)
    assert one.done("a", 0.0, failed=True) == 1.0
    one.take(1.0)
    one.put_off("a", 9.0)
    assert one.take(8.9) is None
    one.add("a", 9.0)
    one.take(9.0)
    assert one.done("a", 9.0, failed=True) == 2.0


class Queued(RuleBasedStateMachine):
    """Against the dumbest account of what was asked for: nothing is lost, and no key is taken by two."""

    def __init__(self) -> None:
        super().__init__()
        self.queue, self.now_s = queue(), 0.0
        self.wanted: set[str] = set()  # asked for and not taken since
        self.due: dict[str, float] = {}
        self.taken: set[str] = set()

    keys = st.sampled_from("abc")

    @rule(key=keys)
    def add(self, key: str) -> None:
        self.queue.add(key, self.now_s)
        self.wanted.add(key)

    @rule(key=keys, after_s=st.integers(0, 5))
    def add_later(self, key: str, after_s: int) -> None:
        self.queue.add_later(key, self.now_s + after_s)
        self.due[key] = min(self.due.get(key, 1e9), self.now_s + after_s)

    @rule(by_s=st.integers(0, 3))
    def pass_time(self, by_s: int) -> None:
        self.now_s += by_s

    @rule()
    def take(self) -> None:
        taken = self.queue.take(self.now_s)
        ripe = {key for key, due_s in self.due.items() if due_s <= self.now_s}
        self.wanted |= ripe
        for key in ripe:
            del self.due[key]
        free = self.wanted - self.taken
        if taken is None:
            assert not free
            return
        assert taken[0] in free
        self.wanted.discard(taken[0])
        self.due.pop(taken[0], None)
        self.taken.add(taken[0])

    @rule(key=keys, failed=st.booleans())
    def done(self, key: str, failed: bool) -> None:
        if key not in self.taken:
            return
        self.taken.discard(key)
        pause_s = self.queue.done(key, self.now_s, failed=failed)
        assert (pause_s > 0) == failed
        if failed:
            self.due[key] = min(self.due.get(key, 1e9), self.now_s + pause_s)

    @invariant()
    def all_that_is_due_is_known(self) -> None:
        due_s = self.queue.next_due_s()
        assert due_s == min(self.due.values(), default=None)


TestQueued = Queued.TestCase
TestQueued.settings = settings(max_examples=60, stateful_step_count=30)


async def taken_by(workers: int, act: Callable[[WorkQueue[int]], None], count: int) -> list[int]:
    """What so many workers take after `act`."""
    waiting: WorkQueue[int] = WorkQueue()
    found: list[int] = []

    async def work() -> None:
        while True:
            key, _ = await waiting.take()
            found.append(key)
            await asyncio.sleep(0)
            waiting.done(key)

    tasks = [asyncio.create_task(work()) for _ in range(workers)]
    await asyncio.sleep(0)
    act(waiting)
    async with asyncio.timeout(5):
        while len(found) < count:  # noqa: ASYNC110 - a list has no event
            await asyncio.sleep(0.001)
    for task in tasks:
        task.cancel()
    return found


async def test_many_workers_take_all_keys_between_them() -> None:
    def act(waiting: WorkQueue[int]) -> None:
        for key in range(50):
            waiting.add(key)

    assert sorted(await taken_by(4, act, 50)) == list(range(50))


async def test_keys_that_come_due_at_once_are_all_taken() -> None:
    def act(waiting: WorkQueue[int]) -> None:
        for key in range(10):
            waiting.add_after(key, 0.01)

    assert sorted(await taken_by(4, act, 10)) == list(range(10))

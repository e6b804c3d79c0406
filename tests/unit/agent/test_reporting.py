"""What a node has to say is written in order, and survives a store that is away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from holdfast.agent.reporting import Reporter
from holdfast.control.member_commands import PutProgress, PutSuspect
from holdfast.errors import StoreError, StoreUnavailableError
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.model.records import Commit, ProgressRecord, SuspectRecord
from holdfast.model.wire import decode
from holdfast.stores.memory import MemoryStore

KEYS = Keys(job="j")


class Moody(MemoryStore):
    """Unavailable while `away`; keeps what was written, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.trouble: Exception | None = None
        self.written: list[tuple[str, bytes]] = []

    async def put(self, key: str, value: bytes, lease: int = 0) -> int:
        if self.away:
            await asyncio.sleep(0)
            raise StoreUnavailableError("away")
        if self.trouble is not None:
            raise self.trouble
        self.written.append((key, value))
        return await super().put(key, value, lease)


@asynccontextmanager
async def reporting(store: Moody) -> AsyncIterator[Reporter]:
    reporter = Reporter(store, KEYS, lambda: 0)
    task = asyncio.create_task(reporter.run())
    try:
        yield reporter
    finally:
        task.cancel()


def commit(step: int, generation: int = 1) -> PutProgress:
    made = Commit(step=step, loss=0.5, grad_norm=None, time_s=0.0)
    return PutProgress(ProgressRecord(generation=generation, commits=(made,)))


async def test_commits_that_pile_up_while_the_store_is_away_go_out_together_and_none_is_lost() -> None:
    store = Moody()
    store.away = True
    async with reporting(store) as reporter:
        for step in range(1, 4):
            reporter.say(commit(step))
            await asyncio.sleep(0.01)
        store.away = False
        await reporter.flush(5)
    told = [c.step for _, value in store.written for c in decode(ProgressRecord, value).commits]
    assert told == [1, 2, 3]
    assert len(store.written) < 3


async def test_reports_keep_their_order_and_generations_are_not_merged() -> None:
    store = Moody()
    suspect = PutSuspect(SuspectRecord(generation=1, node=NodeId("n"), detail="gone"))
    async with reporting(store) as reporter:
        for report in (commit(1), suspect, commit(2), commit(3, generation=2)):
            reporter.say(report)
        await reporter.flush(5)
    keys = [key.removeprefix(KEYS.prefix) for key, _ in store.written]
    assert keys == ["progress", "suspects/1/n", "progress", "progress"]


async def test_a_store_that_refuses_is_waited_for_as_one_that_is_away() -> None:
    store = Moody()
    store.trouble = StoreError("etcdserver: mvcc: database space exceeded; compact")
    async with reporting(store) as reporter:
        reporter.say(commit(1))
        await reporter.flush(0.3)
        assert not store.written
        store.trouble = None
        await reporter.flush(20)
    assert len(store.written) == 1


async def test_what_the_store_can_never_take_does_not_keep_back_the_rest() -> None:
    store = Moody()
    store.trouble = ValueError("request is too large")
    async with reporting(store) as reporter:
        reporter.say(commit(1))
        await reporter.flush(5)
        store.trouble = None
        reporter.say(commit(2))
        await reporter.flush(5)
    assert [c.step for _, value in store.written for c in decode(ProgressRecord, value).commits] == [2]

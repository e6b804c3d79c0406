"""A job's prefix is followed whatever stands there, and whatever the store says."""

import asyncio
from collections.abc import Iterable

import pytest

from harness.records import JOB, KEYS, NODE, RECORDS
from harness.waiting import until
from holdfast.errors import RequestError, StoreError, StoreUnavailableError
from holdfast.model.wire import encode
from holdfast.ports.store import Snapshot
from holdfast.stores.memory import MemoryStore
from holdfast_operator.handlers import following
from holdfast_operator.handlers.following import Follower
from holdfast_operator.handlers.run_fold import RunFold


class DeafStore(MemoryStore):
    """It answers, but not to who reads much, `times` times: that meets `error`."""

    def __init__(self, error: StoreError, times: int) -> None:
        super().__init__()
        self._error, self._times = error, times

    async def get_prefix(self, prefix: str) -> Snapshot:
        if self._times:
            self._times -= 1
            raise self._error
        return await super().get_prefix(prefix)


class OddFold(RunFold):
    """One that a record breaks, `times` times."""

    times = 1

    def see(self, changes: Iterable[tuple[str, bytes | None]], now_s: float) -> bool:
        if self.times:
            self.times -= 1
            raise ZeroDivisionError("an odd record")
        return super().see(changes, now_s)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_REFUSED_PAUSE_S", 0.01)


async def troubles_of(fold: RunFold, store: MemoryStore) -> list[str]:
    """What was told until all was read."""
    told: list[str] = []
    follower = Follower(KEYS, fold, lambda is_news: told.append(follower.trouble))
    await store.put(KEYS.one("spec"), encode(JOB))
    task = asyncio.create_task(follower.run(store))
    await until(lambda: follower.is_current or task.done(), within_s=5.0)
    assert not task.done()
    task.cancel()
    assert fold.snapshot() is not None
    return told


async def test_a_prefix_too_large_to_be_read_is_a_trouble_of_that_job_alone() -> None:
    fold = RunFold(KEYS, recoveries=0, generation=0)
    assert await troubles_of(fold, DeafStore(RequestError("read a narrower prefix"), 1)) == [
        "read a narrower prefix",
        "",
    ]


async def test_a_prefix_that_is_not_read_in_time_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_SLOW_S", 0.05)
    fold = RunFold(KEYS, recoveries=0, generation=0)
    assert await troubles_of(fold, DeafStore(StoreUnavailableError("no answer in time"), 3)) == [
        "what stands there could not be read within 0.05 s",
        "",
    ]


async def test_a_record_that_breaks_the_fold_is_a_trouble_of_that_job_alone() -> None:
    fold = OddFold(KEYS, recoveries=0, generation=0)
    (first, last) = await troubles_of(fold, MemoryStore())
    assert "an odd record" in first
    assert last == ""


async def test_what_went_while_nobody_followed_is_gone_afterwards() -> None:
    store, fold = MemoryStore(), RunFold(KEYS, recoveries=0, generation=0)
    follower = Follower(KEYS, fold, lambda is_news: None)
    for key in (KEYS.one("spec"), KEYS.node(NODE)):
        await store.put(key, encode(RECORDS[key]))
    for expected in ({NODE}, set()):
        follower.is_current = False
        task = asyncio.create_task(follower.run(store))
        await until(lambda: follower.is_current, within_s=5.0)
        task.cancel()
        run = fold.snapshot()
        assert run is not None
        assert run.nodes.keys() == expected
        await store.delete(KEYS.node(NODE))

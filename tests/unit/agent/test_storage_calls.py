"""A storage that hangs keeps the few threads that are for it, and nobody else waits."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from holdfast.agent.storage_calls import StorageCalls
from holdfast_checkpoint.errors import StorageBusyError

pytestmark = pytest.mark.asyncio


@pytest.fixture
def released() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


async def hang(calls: StorageCalls, released: threading.Event, within_s: float = 0.5) -> str:
    with pytest.raises(StorageBusyError) as raised:
        await calls.call(released.wait, within_s)
    return str(raised.value)


async def test_what_a_call_returns_or_raises_comes_back() -> None:
    calls = StorageCalls("upload", 1)

    def fail() -> None:
        raise LookupError("not there")

    assert await calls.call(lambda: 7, 5) == 7
    with pytest.raises(LookupError, match="not there"):
        await calls.call(fail, 5)
    assert await calls.call(lambda: 8, 5) == 8


async def test_a_call_that_hangs_is_given_up_and_keeps_its_thread_until_it_returns(
    released: threading.Event,
) -> None:
    calls = StorageCalls("upload", 2)
    assert "given up" in await hang(calls, released)
    assert await calls.call(lambda: "the other thread", 5) == "the other thread"
    assert "given up" in await hang(calls, released)
    assert "2 of 2 hang in calls to the storage" in await hang(calls, released)
    hanging = [thread for thread in threading.enumerate() if thread.name.startswith("storage-upload")]
    assert len(hanging) == 2, "no third thread"

    waiting = asyncio.create_task(calls.call(lambda: "again", 10))
    await asyncio.sleep(0)
    released.set()
    assert await waiting == "again"


async def test_other_purposes_and_threads_of_the_loop_go_on_while_all_threads_hang(
    released: threading.Event,
) -> None:
    uploads, restores = StorageCalls("upload", 2), StorageCalls("restore", 2)
    hanging = [asyncio.create_task(hang(uploads, released, 30)) for _ in range(100)]
    await asyncio.sleep(0.05)
    async with asyncio.timeout(5):
        assert await restores.call(lambda: 1, 5) == 1
        assert await asyncio.to_thread(lambda: 2) == 2
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)


async def test_who_leaves_waits_no_longer_than_it_may(released: threading.Event) -> None:
    calls = StorageCalls("upload", 1)
    await calls.settle(5)
    task = asyncio.create_task(calls.call(released.wait, 60))
    await asyncio.sleep(0.02)
    task.cancel()
    begun_s = time.monotonic()
    await calls.settle(0.1)
    assert 0.05 < time.monotonic() - begun_s < 30
    released.set()
    await calls.settle(10)


async def test_a_process_ends_though_a_call_hangs() -> None:
    program = """
import asyncio, threading
from holdfast.agent.storage_calls import StorageCalls
from holdfast_checkpoint.aside import map_aside
from holdfast_checkpoint.errors import StorageBusyError

def hang(_):
    threading.Event().wait()

async def main():
    try:
        await StorageCalls("restore", 1).call(lambda: list(map_aside(hang, range(4), 2, "read")), 1.0)
    except StorageBusyError as error:
        print(error)

asyncio.run(main())
"""
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], capture_output=True, timeout=60, check=True
    )
    assert b"given up" in ended.stdout

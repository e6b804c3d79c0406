"""A cluster asks an agent how it is, without its secret, and hears nothing else."""

import asyncio
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from holdfast.agent.health import Health
from holdfast.errors import UserError


@dataclass
class Agent:
    is_ready: bool = False
    stuck: str = ""


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Iterator[tuple[Health, str]]:
    made = Health(clock)
    port = made.open("127.0.0.1", 0)
    yield made, f"http://127.0.0.1:{port}"
    made.close()


def asked(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode().strip()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode().strip()


async def one_beat(health: Health, agent: Agent | None) -> None:
    beating = asyncio.create_task(health.beat(lambda: agent))
    await asyncio.sleep(0)
    beating.cancel()


async def test_an_agent_that_waits_for_its_job_lives_and_is_not_ready(health: tuple[Health, str]) -> None:
    made, url = health
    await one_beat(made, None)
    assert await asyncio.to_thread(asked, f"{url}/livez") == (200, "ok")
    assert await asyncio.to_thread(asked, f"{url}/readyz") == (503, "not taking part")


async def test_one_that_takes_part_is_ready_until_it_leaves(health: tuple[Health, str]) -> None:
    made, url = health
    agent = Agent(is_ready=True)
    await one_beat(made, agent)
    assert await asyncio.to_thread(asked, f"{url}/readyz?verbose") == (200, "ok")
    agent.is_ready = False
    await one_beat(made, agent)
    assert (await asyncio.to_thread(asked, f"{url}/readyz"))[0] == 503
    assert (await asyncio.to_thread(asked, f"{url}/livez"))[0] == 200


async def test_a_worker_that_cannot_be_killed_is_told(health: tuple[Health, str]) -> None:
    made, url = health
    await one_beat(made, Agent(is_ready=True, stuck="a/0 hangs"))
    assert await asyncio.to_thread(asked, f"{url}/livez") == (503, "a/0 hangs")
    assert await asyncio.to_thread(asked, f"{url}/readyz") == (503, "a/0 hangs")


async def test_an_event_loop_that_stands_still_is_told_though_it_cannot_say_so(
    health: tuple[Health, str], clock: Clock
) -> None:
    made, url = health
    await one_beat(made, Agent(is_ready=True))
    clock.now_s += 29.0
    assert (await asyncio.to_thread(asked, f"{url}/livez"))[0] == 200
    clock.now_s += 2.0
    told = (503, "the event loop has stood still for 31 s")
    assert await asyncio.to_thread(asked, f"{url}/livez") == told
    assert await asyncio.to_thread(asked, f"{url}/readyz") == told


async def test_nothing_else_is_told_there(health: tuple[Health, str]) -> None:
    for path in ("/", "/status", "/metrics", "/livez/x"):
        assert await asyncio.to_thread(asked, f"{health[1]}{path}") == (404, "there are /livez and /readyz")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\x00\xff\n\n",
        b"GET /livez",
        b"GET " + b"x" * 70_000,
        b"POST /livez HTTP/1.1\r\nContent-Length: 99\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    ],
)
async def test_garbage_keeps_it_from_nothing(health: tuple[Health, str], sent: bytes) -> None:
    made, url = health
    await one_beat(made, Agent(is_ready=True))
    _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(sent)
    await writer.drain()
    assert await asyncio.to_thread(asked, f"{url}/readyz") == (200, "ok")
    writer.close()


def test_an_address_that_is_taken_is_refused() -> None:
    first = Health()
    port = first.open("127.0.0.1", 0)
    try:
        with pytest.raises(UserError, match=rf"--health 127.0.0.1:{port}: cannot be bound: Address already in use"):
            Health().open("127.0.0.1", port)
    finally:
        first.close()

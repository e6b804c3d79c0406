"""A cluster asks an agent how it is, without its secret, and hears nothing else."""

import asyncio
import contextlib
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


async def test_who_sends_a_byte_now_and_then_is_cut_off_in_the_end(
    health: tuple[Health, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.agent.health._REQUEST_S", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(health[1].rpartition(":")[2]))

    async def drip() -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    async with asyncio.timeout(4.0):  # of silence alone it is patient for longer
        with contextlib.suppress(ConnectionError):
            await reader.read()
    dripping.cancel()
    writer.close()


async def test_of_many_that_say_nothing_the_last_are_refused_and_later_ones_answered(
    health: tuple[Health, str],
) -> None:
    made, url = health
    await one_beat(made, Agent(is_ready=True))
    port = int(url.rpartition(":")[2])
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(32)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 4.0) == b""
    for _, other in [*idle, (reader, writer)]:
        other.close()
    async with asyncio.timeout(4.0):
        while (await asyncio.to_thread(_try, f"{url}/readyz")) != (200, "ok"):  # noqa: ASYNC110 - threads that end
            await asyncio.sleep(0.01)


def _try(url: str) -> tuple[int, str] | None:
    try:
        return asked(url)
    except OSError:
        return None


def test_it_listens_at_an_address_of_ipv6() -> None:
    made = Health()
    port = made.open("::1", 0)
    try:
        assert asked(f"http://[::1]:{port}/readyz") == (503, "not taking part")
    finally:
        made.close()


def test_an_address_that_is_taken_is_refused() -> None:
    first = Health()
    port = first.open("127.0.0.1", 0)
    try:
        with pytest.raises(UserError, match=rf"--health 127.0.0.1:{port}: cannot be bound: Address already in use"):
            Health().open("127.0.0.1", port)
    finally:
        first.close()

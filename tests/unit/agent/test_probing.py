"""A verdict on another agent says no more than what is known."""

import asyncio
import os
import resource
import socket

import aiohttp
import pytest

from harness.contact import Led
from holdfast.agent.contact import ContactPoint, hold_contact
from holdfast.agent.credentials import Credentials
from holdfast.agent.http import HttpPort, Listening
from holdfast.agent.peers import Peers
from holdfast.agent.probing import Verdict, probe
from holdfast.model.ids import NodeId
from holdfast.worker.process_groups import duplicated, open_sockets

SECRET = b"0123456789abcdef"


def peers(secret: bytes = SECRET) -> Peers:
    return Peers(Credentials(secret, "job"))


def port_of(incarnation: str, contact: ContactPoint | None = None, secret: bytes = SECRET) -> HttpPort:
    def alive() -> dict[str, object]:
        return {"incarnation": incarnation, "workers": ["w1"]}

    return HttpPort(Listening(host="127.0.0.1"), peers(secret), alive, dict, contact or Led())


async def test_an_agent_that_answers_is_alive_and_names_its_workers() -> None:
    port = port_of("i1")
    await port.open()
    try:
        assert await probe(peers(), "127.0.0.1", port.port, "i1", 5.0) == (Verdict.ALIVE, ("w1",))
    finally:
        await port.close()


async def test_an_agent_whose_port_refuses_is_dead() -> None:
    port = port_of("i1")
    await port.open()
    number = port.port
    await port.close()
    assert (await probe(peers(), "127.0.0.1", number, "i1", 5.0))[0] is Verdict.REFUSED


async def test_a_later_incarnation_at_the_same_port_shows_that_the_former_is_dead() -> None:
    port = port_of("i2")
    await port.open()
    try:
        assert (await probe(peers(), "127.0.0.1", port.port, "i1", 5.0))[0] is Verdict.REFUSED
    finally:
        await port.close()


async def test_an_impostor_at_an_agents_address_neither_shows_it_alive_nor_dead() -> None:
    for incarnation in ("i1", "i2"):
        port = port_of(incarnation, secret=b"another secret, of someone")
        await port.open()
        try:
            assert (await probe(peers(), "127.0.0.1", port.port, "i1", 5.0))[0] is Verdict.SILENT
        finally:
            await port.close()


async def test_what_an_agent_answered_once_is_no_answer_to_a_later_probe() -> None:
    """A stranger at the agent's address repeats an answer that it overheard."""
    port = port_of("i1")
    await port.open()
    overheard: list[bytes] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if not overheard:
            there, back = await asyncio.open_connection("127.0.0.1", port.port)
            back.write(request)
            overheard.append(await there.read(4096))
            back.close()
            await back.wait_closed()
        writer.write(overheard[0])
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    between = await asyncio.start_server(forward, "127.0.0.1", 0)
    try:
        async with between:
            number = between.sockets[0].getsockname()[1]
            assert (await probe(peers(), "127.0.0.1", number, "i1", 5.0))[0] is Verdict.ALIVE
            assert (await probe(peers(), "127.0.0.1", number, "i1", 5.0))[0] is Verdict.SILENT
    finally:
        await port.close()


async def test_silence_is_no_verdict() -> None:
    closed = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        closed.set()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server:
        number = server.sockets[0].getsockname()[1]
        assert (await probe(peers(), "127.0.0.1", number, "i1", 0.2))[0] is Verdict.SILENT
        await asyncio.wait_for(closed.wait(), 5)


async def test_both_ends_of_a_contact_hear_when_the_other_is_gone() -> None:
    contact = Led()
    port = port_of("i1", contact)
    await port.open()
    held = asyncio.create_task(hold_contact(peers(), "127.0.0.1", port.port, NodeId("node-7"), 5))
    await asyncio.wait_for(contact.begun.wait(), 20)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(held), 0.2)  # it lasts while both live
    held.cancel()
    await asyncio.wait_for(contact.lost.wait(), 20)
    assert contact.with_node == "node-7"
    other = asyncio.create_task(hold_contact(peers(), "127.0.0.1", port.port, NodeId("node-8"), 5))
    await asyncio.wait({other}, timeout=0.2)
    await port.close()
    await asyncio.wait_for(other, 5)


async def test_an_agent_that_has_no_files_left_did_not_ask() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        verdict, _ = await probe(peers(), "127.0.0.1", 1, "i1", 5.0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert verdict is Verdict.UNASKED


async def test_many_are_asked_a_few_at_a_time_and_each_has_its_full_time() -> None:
    waiting, most = 0, 0

    async def answer_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(1.5)
        waiting -= 1
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer_late, "127.0.0.1", 0)
    asker = peers()
    async with server:
        number = server.sockets[0].getsockname()[1]
        # Five rounds of 1.5 s at the least: with one limit for all of them, some would be out of time.
        bodies = [asker.fetch("127.0.0.1", number, "/alive", 7.0) for _ in range(320)]
        ended = await asyncio.gather(*bodies, return_exceptions=True)
    assert 32 < most <= 64
    assert {type(error) for error in ended} == {aiohttp.ServerDisconnectedError}


async def test_both_ends_of_a_contact_are_watched_by_the_kernel() -> None:
    """The far machine may vanish, and no packet tell of it."""
    port = port_of("i1")
    await port.open()
    before = set(filter(kept_alive, open_sockets()))

    async def both() -> None:
        while True:
            if len(set(filter(kept_alive, open_sockets())) - before) == 2:
                return
            await asyncio.sleep(0.01)

    held = asyncio.create_task(hold_contact(peers(), "127.0.0.1", port.port, NodeId("node-7"), 5))
    try:
        await asyncio.wait_for(both(), 5)
    finally:
        held.cancel()
        await port.close()


def kept_alive(descriptor: int) -> bool:
    connection = duplicated(descriptor)
    if connection is None:
        return False
    with connection:
        if connection.family != socket.AF_INET:
            return False
        options = ((socket.SOL_SOCKET, socket.SO_KEEPALIVE), (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
        return all(connection.getsockopt(*option) for option in options)

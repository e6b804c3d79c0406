"""A verdict on another agent says no more than what is known."""

import asyncio
from collections.abc import Callable

import pytest

from holdfast.agent.contact import ContactPoint, hold_contact
from holdfast.agent.http import HttpPort
from holdfast.agent.probing import Verdict, probe
from holdfast.model.ids import NodeId


def port_of(incarnation: str, on_lost: Callable[[NodeId], None] = lambda _: None) -> HttpPort:
    contact = ContactPoint(on_lost)
    return HttpPort("127.0.0.1", lambda: {"incarnation": incarnation, "workers": ["w1"]}, dict, contact)


async def test_an_agent_that_answers_is_alive_and_names_its_workers() -> None:
    port = port_of("i1")
    await port.open()
    try:
        assert await probe("127.0.0.1", port.port, "i1", 5.0) == (Verdict.ALIVE, ("w1",))
    finally:
        await port.close()


async def test_an_agent_whose_port_refuses_is_dead() -> None:
    port = port_of("i1")
    await port.open()
    number = port.port
    await port.close()
    assert (await probe("127.0.0.1", number, "i1", 5.0))[0] is Verdict.REFUSED


async def test_a_later_incarnation_at_the_same_port_shows_that_the_former_is_dead() -> None:
    port = port_of("i2")
    await port.open()
    try:
        assert (await probe("127.0.0.1", port.port, "i1", 5.0))[0] is Verdict.REFUSED
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
        assert (await probe("127.0.0.1", number, "i1", 0.2))[0] is Verdict.SILENT
        await asyncio.wait_for(closed.wait(), 5)


async def test_both_ends_of_a_contact_hear_when_the_other_is_gone() -> None:
    lost: asyncio.Queue[NodeId] = asyncio.Queue()
    port = port_of("i1", lost.put_nowait)
    await port.open()
    held = asyncio.create_task(hold_contact("127.0.0.1", port.port, NodeId("node-7")))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(held), 0.2)  # it lasts while both live
    held.cancel()
    assert await asyncio.wait_for(lost.get(), 5) == "node-7"
    other = asyncio.create_task(hold_contact("127.0.0.1", port.port, NodeId("node-8")))
    await asyncio.wait({other}, timeout=0.2)
    await port.close()
    await asyncio.wait_for(other, 5)

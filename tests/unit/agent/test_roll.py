"""Agents are asked whether they live once for all who want to know, and one that speaks is never held for silent."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from holdfast.agent.credentials import Credentials
from holdfast.agent.http import HttpPort, Listening
from holdfast.agent.peers import Peers
from holdfast.agent.roll import Roll
from holdfast.model.ids import NodeId
from holdfast.model.keeping import KeeperRecord
from holdfast.model.records import AgentRef


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Other:
    """An agent that is there; while `is_away` somebody else answers at its port. `asked`: how often."""

    def __init__(self, peers: Peers) -> None:
        self.asked, self.is_away = 0, False
        self.http = HttpPort(Listening(host="127.0.0.1"), peers, self._alive, dict, None)

    def _alive(self) -> dict[str, object]:
        self.asked += 1
        return {"incarnation": "somebody else" if self.is_away else "other", "workers": []}

    def record(self) -> KeeperRecord:
        agent = AgentRef(node=NodeId("b"), incarnation="other", host="127.0.0.1", port=self.http.port, domain="b")
        return KeeperRecord(agent=agent)


@pytest.fixture
def peers() -> Peers:
    return Peers(Credentials(b"0123456789abcdef", "script:x"))


@pytest.fixture
async def other(peers: Peers) -> AsyncIterator[Other]:
    made = Other(peers)
    await made.http.open()
    yield made
    await made.http.close()


async def _nothing_new() -> None:
    """Of the store."""


async def test_one_that_did_not_answer_once_is_back_as_soon_as_it_writes(peers: Peers, other: Other) -> None:
    roll, record = Roll(NodeId("a"), peers, _nothing_new), other.record()
    roll.see([record])
    other.is_away = True
    await roll.call()
    assert roll.answering([record]) == []
    roll.see([record])  # somebody else has written
    assert roll.answering([record]) == []
    anew = replace(record)
    roll.see([anew])
    assert roll.answering([anew]) == [anew]


async def test_many_who_want_to_know_ask_once_and_again_after_a_while(peers: Peers, other: Other) -> None:
    clock = Clock()
    roll, record = Roll(NodeId("a"), peers, _nothing_new, clock), other.record()
    roll.see([record])
    await asyncio.gather(*(roll.call() for _ in range(8)))
    assert other.asked == 1
    clock.now_s += 3.0
    other.is_away = True
    await asyncio.gather(*(roll.call() for _ in range(8)))
    assert other.asked == 2
    assert roll.answering([record]) == []


async def test_one_reading_of_the_store_serves_all_who_ask_before_it_begins(peers: Peers) -> None:
    readings, begun, go = 0, asyncio.Event(), asyncio.Event()

    async def read() -> None:
        nonlocal readings
        readings += 1
        begun.set()
        await go.wait()

    roll = Roll(NodeId("a"), peers, read)
    first = asyncio.create_task(roll.refresh())
    await begun.wait()
    later = [asyncio.create_task(roll.refresh()) for _ in range(8)]
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(first, *later)
    assert readings == 2, "what was written after the first began is in the second"

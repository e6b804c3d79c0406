"""Contact is held to whoever leads now."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from harness.contact import Led
from holdfast.agent.credentials import Credentials
from holdfast.agent.http import HttpPort, Listening
from holdfast.agent.neighbours import Neighbours
from holdfast.agent.peers import Peers
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.model.records import LeaderRecord, NodeRecord
from holdfast.model.wire import encode
from holdfast.ports.store import KeyValue
from holdfast.stores.memory import MemoryStore

KEYS = Keys(job="job")


def peers() -> Peers:
    return Peers(Credentials(b"0123456789abcdef", "job"))


@asynccontextmanager
async def agent(name: str) -> AsyncIterator[tuple[NodeRecord, Led]]:
    contact = Led()
    port = HttpPort(Listening(host="127.0.0.1"), peers(), lambda: {"incarnation": name, "workers": []}, dict, contact)
    await port.open()
    record = NodeRecord(
        node=NodeId(name), incarnation=name, host="127.0.0.1", port=port.port, domain=name, agent_pid=1, workers=()
    )
    try:
        yield record, contact
    finally:
        await port.close()


def kv(key: str, value: bytes, revision: int) -> KeyValue:
    return KeyValue(key=key, value=value, create_revision=revision, mod_revision=revision, version=1, lease=1)


async def test_contact_goes_over_to_a_new_leader_though_the_former_lives() -> None:
    store = MemoryStore()
    ours = Neighbours(store, KEYS, NodeId("me"), peers(), 1.0, 5.0)
    async with agent("a") as (a, at_a), agent("b") as (b, at_b):
        for revision, record in enumerate((a, b), 1):
            key = KEYS.node(record.node)
            ours.see(key, kv(key, encode(record), revision))
        silences: list[None] = []
        holding = asyncio.create_task(ours.keep_contact(lambda: silences.append(None)))
        leader = KEYS.one("leader")
        ours.see(leader, kv(leader, encode(LeaderRecord(node=a.node, incarnation="a")), 10))
        await asyncio.wait_for(at_a.begun.wait(), 5)

        ours.see(leader, None)
        ours.see(leader, kv(leader, encode(LeaderRecord(node=b.node, incarnation="b")), 11))

        await asyncio.wait_for(at_a.lost.wait(), 5)
        await asyncio.wait_for(at_b.begun.wait(), 5)
        assert not at_b.lost.is_set()
        assert not silences
        holding.cancel()
    await store.close()

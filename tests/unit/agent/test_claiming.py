"""A node's name is one live agent's: a second is refused while the first lives, and takes over when it is dead."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from holdfast.agent.claiming import SELF_DRAIN, claim_node
from holdfast.agent.contact import ContactPoint
from holdfast.agent.credentials import Credentials
from holdfast.agent.http import HttpPort, Listening
from holdfast.agent.peers import Peers
from holdfast.errors import UserError
from holdfast.model.ids import NodeId
from holdfast.model.records import ClaimRecord, DrainRecord, Keys
from holdfast.model.wire import decode, encode
from holdfast.stores.memory import MemoryStore

KEYS = Keys(job="job")
NODE = NodeId("node-1")
PEERS = Peers(Credentials(b"0123456789abcdef", "job"))


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    made = MemoryStore()
    yield made
    await made.close()


@asynccontextmanager
async def listening(incarnation: str) -> AsyncIterator[int]:
    def alive() -> dict[str, object]:
        return {"incarnation": incarnation, "workers": []}

    port = HttpPort(Listening(host="127.0.0.1"), PEERS, alive, dict, ContactPoint(lambda _: None))
    await port.open()
    try:
        yield port.port
    finally:
        await port.close()


def claim(incarnation: str, port: int) -> ClaimRecord:
    return ClaimRecord(node=NODE, incarnation=incarnation, host="127.0.0.1", port=port, pid=port)


async def take(store: MemoryStore, record: ClaimRecord, ttl_s: float = 30.0) -> int:
    lease = await store.grant(ttl_s)
    await asyncio.wait_for(claim_node(store, KEYS, record, lease, ttl_s, PEERS), 20)
    return lease


async def holder(store: MemoryStore) -> str:
    held = await store.get(KEYS.claim(NODE))
    assert held is not None
    return decode(ClaimRecord, held.value).incarnation


async def test_a_second_agent_of_a_name_is_refused_while_the_first_lives(store: MemoryStore) -> None:
    async with listening("first") as port:
        await take(store, claim("first", port))

        with pytest.raises(UserError, match=f"lives at 127.0.0.1 port {port}"):
            await take(store, claim("second", 2))
        assert await holder(store) == "first"


async def test_an_agent_that_was_started_again_need_not_wait_for_the_old_lease(store: MemoryStore) -> None:
    async with listening("first") as port:
        old = await take(store, claim("first", port), ttl_s=3600)
    await store.put(KEYS.node(NODE), b"the old record", old)

    await take(store, claim("second", 2))

    assert await holder(store) == "second"
    assert await store.get(KEYS.node(NODE)) is None


async def test_of_an_agent_that_is_silent_the_lease_decides(store: MemoryStore) -> None:
    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0)
        writer.close()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        await take(store, claim("first", port), ttl_s=0.5)
        await take(store, claim("second", 2), ttl_s=0.5)

        assert await holder(store) == "second"

        lease = await take(store, claim("third", port), ttl_s=0.4)

        async def renew() -> None:
            while True:
                await store.keep_alive(lease)
                await asyncio.sleep(0.05)

        renewing = asyncio.create_task(renew())
        with pytest.raises(UserError, match="renews its lease"):
            await take(store, claim("fourth", 2), ttl_s=0.4)
        renewing.cancel()


async def test_a_claim_that_no_agent_wrote_stands_in_nobodys_way(store: MemoryStore) -> None:
    await store.put(KEYS.claim(NODE), b"\xff not a claim")

    await take(store, claim("first", 1))

    assert await holder(store) == "first"


@pytest.mark.parametrize(
    ("released", "reason", "is_kept"),
    [(True, "holdfast drain", False), (False, SELF_DRAIN, False), (False, "holdfast drain", True)],
)
async def test_how_an_earlier_agent_left_does_not_send_its_successor_away(
    store: MemoryStore, released: bool, reason: str, is_kept: bool
) -> None:
    drain = DrainRecord(node=NODE, grace_s=5, reason=reason, released=released)
    await store.put(KEYS.drain(NODE), encode(drain))

    await take(store, claim("second", 2))

    assert (await store.get(KEYS.drain(NODE)) is not None) == is_kept

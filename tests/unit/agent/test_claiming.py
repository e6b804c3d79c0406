"""A node's name is one live agent's: a second is refused while the first lives, and takes over when it is dead."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from holdfast.agent.claiming import NodeClaim
from holdfast.agent.contact import ContactPoint
from holdfast.agent.credentials import Credentials
from holdfast.agent.draining import SELF_DRAIN, ask_to_drain
from holdfast.agent.http import HttpPort, Listening
from holdfast.agent.peers import Peers
from holdfast.errors import NodeRefusedError, StoreError
from holdfast.model.claim import ClaimRecord
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.model.records import DrainRecord
from holdfast.model.wire import decode, encode
from holdfast.ports.store import Compare, Operation, TxnResult
from holdfast.stores.memory import MemoryStore

KEYS = Keys(job="job")
NODE = NodeId("node-1")
PEERS = Peers(Credentials(b"0123456789abcdef", "job"))


class Refusing(MemoryStore):
    """As etcd when its space is used up."""

    refuses = False

    async def transact(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        if self.refuses:
            raise StoreError("no space")
        return await super().transact(compares, then, otherwise)


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


async def take(
    store: MemoryStore,
    record: ClaimRecord,
    lease_s: float = 3600.0,
    *,
    ttl_s: float = 30.0,
    process: NodeClaim | None = None,
) -> int:
    """As a process of its own, unless one is given. `lease_s`: of its lease, which nobody renews."""
    lease = await store.grant(lease_s)
    claimed = (process or NodeClaim(store, KEYS, PEERS, ttl_s)).take(record, lease)
    await asyncio.wait_for(claimed, 20)
    return lease


async def holder(store: MemoryStore) -> str:
    held = await store.get(KEYS.claim(NODE))
    assert held is not None
    return decode(ClaimRecord, held.value).incarnation


async def test_a_second_agent_of_a_name_is_refused_while_the_first_lives(store: MemoryStore) -> None:
    async with listening("first") as port:
        await take(store, claim("first", port))

        with pytest.raises(NodeRefusedError, match=f"lives at 127.0.0.1 port {port}"):
            await take(store, claim("second", 2))
        assert await holder(store) == "first"


async def test_an_agent_that_was_started_again_need_not_wait_for_the_old_lease(store: MemoryStore) -> None:
    async with listening("first") as port:
        old = await take(store, claim("first", port))
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
        await take(store, claim("first", port), lease_s=0.5)
        await take(store, claim("second", 2))

        assert await holder(store) == "second"

        await take(store, claim("third", port))
        with pytest.raises(NodeRefusedError, match="renews its lease"):
            await take(store, claim("fourth", 2), ttl_s=0.4)


async def test_a_claim_that_no_agent_wrote_stands_in_nobodys_way(store: MemoryStore) -> None:
    await store.put(KEYS.claim(NODE), b"\xff not a claim")

    await take(store, claim("first", 1))

    assert await holder(store) == "first"


@pytest.mark.parametrize(
    ("released", "incarnation", "is_kept"),
    [(True, "", False), (False, "first", False), (False, "", True)],
)
async def test_how_an_earlier_agent_left_does_not_send_its_successor_away(
    store: MemoryStore, released: bool, incarnation: str, is_kept: bool
) -> None:
    drain = DrainRecord(node=NODE, grace_s=5, reason="notice", released=released, incarnation=incarnation)
    await store.put(KEYS.drain(NODE), encode(drain))

    await take(store, claim("second", 2))

    assert (await store.get(KEYS.drain(NODE)) is not None) == is_kept


async def test_a_drain_of_its_own_outlives_a_new_lease_of_the_same_agent(store: MemoryStore) -> None:
    process = NodeClaim(store, KEYS, PEERS, 30.0)
    lease = await take(store, claim("first", 1), process=process)
    drain = DrainRecord(node=NODE, grace_s=5, reason=SELF_DRAIN)
    await ask_to_drain(store, KEYS, drain)
    await store.revoke(lease)

    await take(store, claim("again", 1), process=process)

    held = await store.get(KEYS.drain(NODE))
    assert held is not None
    assert decode(DrainRecord, held.value) == drain


async def test_what_this_process_claimed_before_is_waited_for_and_another_of_the_same_numbers_is_asked(
    store: MemoryStore,
) -> None:
    """In containers each agent may have pid 1, the same port, and an address that the last one had."""
    process = NodeClaim(store, KEYS, PEERS, 30.0)
    old = await take(store, claim("first", 1), process=process)
    again = asyncio.create_task(take(store, claim("second", 1), process=process))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(again), 0.3)  # its own lease still lives
    await store.revoke(old)
    await asyncio.wait_for(again, 5)

    await take(store, claim("third", 1))  # a dead one's port refuses: no wait for its lease
    assert await holder(store) == "third"


@pytest.mark.parametrize(
    ("known", "is_kept"),
    [
        (DrainRecord(node=NODE, grace_s=5, reason="holdfast drain"), True),
        (DrainRecord(node=NODE, grace_s=500, reason="holdfast drain", released=True), True),
        (DrainRecord(node=NODE, grace_s=500, reason="holdfast drain"), False),
        (None, False),
    ],
)
async def test_sigterm_shortens_a_drain_and_never_takes_a_release_back(
    store: MemoryStore, known: DrainRecord | None, is_kept: bool
) -> None:
    if known is not None:
        await store.put(KEYS.drain(NODE), encode(known))
    mine = DrainRecord(node=NODE, grace_s=30, reason=SELF_DRAIN)

    await ask_to_drain(store, KEYS, mine)

    held = await store.get(KEYS.drain(NODE))
    assert held is not None
    assert decode(DrainRecord, held.value) == (known if is_kept else mine)


async def test_a_store_that_refuses_ends_an_agent_that_begins_and_not_one_that_runs() -> None:
    store = Refusing()
    process = NodeClaim(store, KEYS, PEERS, 30.0)
    store.refuses = True
    with pytest.raises(StoreError, match="no space"):
        await process.take(claim("first", 1), 1)
    store.refuses = False
    old = await take(store, claim("first", 1), process=process)
    await store.revoke(old)
    lease = await store.grant(30)
    store.refuses = True
    again = asyncio.create_task(process.take(claim("again", 1), lease))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(again), 0.3)
    store.refuses = False
    await asyncio.wait_for(again, 10)
    assert await holder(store) == "again"
    await store.close()

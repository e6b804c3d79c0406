"""An agent whose address is of the other family than those of the job's nodes is refused before it breaks the job."""

import pytest

from harness.records import KEYS, NODE, RECORDS
from holdfast.agent.family import check_family
from holdfast.errors import UserError
from holdfast.model.wire import encode
from holdfast.stores.memory import MemoryStore


async def nodes() -> MemoryStore:
    store = MemoryStore()
    await store.put(KEYS.node(NODE), b"garbage")
    await store.put(f"{KEYS.node(NODE)}-more", encode(RECORDS[KEYS.node(NODE)]))
    return store


@pytest.mark.parametrize("host", ["10.0.0.1", "node.cluster"])
async def test_an_address_of_the_same_family_or_a_name_is_taken(host: str) -> None:
    await check_family(await nodes(), KEYS, host)


async def test_one_of_the_other_family_is_refused() -> None:
    with pytest.raises(UserError, match=r"--address ::1: is of IPv6, but node-0 is at 127\.0\.0\.1"):
        await check_family(await nodes(), KEYS, "::1")
    await check_family(MemoryStore(), KEYS, "::1")

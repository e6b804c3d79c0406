"""An agent that keeps for scripts goes on whatever the store thinks of its record, and lets go of what nobody uses."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from holdfast.agent.http import Listening
from holdfast.agent.keeper import Keeper, KeeperOptions
from holdfast.errors import StoreError
from holdfast.model.ids import NodeId
from holdfast.model.keeping import HeldSave, KeeperKeys, KeeperRecord
from holdfast.model.records import AgentRef, Version
from holdfast.model.wire import decode, encode
from holdfast.ports.store import Compare, Operation, Put, TxnResult
from holdfast.stores.address import StoreAccess, parse_store
from holdfast.stores.memory import MemoryStore
from holdfast_checkpoint.agent_messages import Named, script_of
from holdfast_checkpoint.dcp.handing import blob_file
from holdfast_checkpoint.dcp.local_agent import LocalAgent
from holdfast_checkpoint.digest import digest_of

SECRET = b"0123456789abcdef"
KEY = KeeperKeys(name="x").keeper(NodeId("a"))
DATA = b"the bytes of a blob"
WITHIN_S = 10.0


class Choosy(MemoryStore):
    """A store that takes no record of a keeper with more layers than that."""

    def __init__(self, refusal: Exception) -> None:
        super().__init__()
        self.refusal, self.layers_max = refusal, 2
        self.refused, self.written = asyncio.Event(), asyncio.Event()

    async def transact(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        for put in then:
            if isinstance(put, Put) and put.key == KEY and _layers(put.value) > self.layers_max:
                self.refused.set()
                raise self.refusal
        done = await super().transact(compares, then, otherwise)
        self.written.set()
        return done


def _layers(value: bytes) -> int:
    return sum(len(save.own) for save in decode(KeeperRecord, value).held)


@asynccontextmanager
async def running(store: MemoryStore, folder: Path) -> AsyncIterator[Keeper]:
    address = parse_store("embedded://127.0.0.1:1")
    made = Keeper(
        KeeperOptions(
            name="x",
            address=address,
            access=StoreAccess(secret=SECRET),
            node=NodeId("a"),
            host="127.0.0.1",
            listening=Listening(host="127.0.0.1"),
            domain="a",
            socket=folder / "s",
            secret=SECRET,
            memory=1 << 30,
        ),
        store,
    )
    task = asyncio.create_task(made.run())
    while await store.get(KEY) is None:
        assert not task.done(), task.exception()
        await asyncio.sleep(0.01)
    yield made
    assert not task.done(), "it goes on"
    task.cancel()
    await asyncio.wait([task])


async def _until(store: Choosy, layers: int) -> None:
    async with asyncio.timeout(WITHIN_S):
        while (found := await store.get(KEY)) is None or _layers(found.value) != layers:
            store.written.clear()
            await store.written.wait()


@pytest.mark.parametrize("refusal", [ValueError("too large"), StoreError("too large")], ids=repr)
async def test_a_record_that_the_store_never_takes_costs_that_record_and_nothing_that_is_held(
    refusal: Exception, tmp_path: Path
) -> None:
    store, first, second = Choosy(refusal), Named(1 << 50, 1), Named((1 << 50) + 1, 2)
    async with running(store, tmp_path):
        agent = LocalAgent(tmp_path / "s", "file:///run")
        await asyncio.to_thread(agent.begin, first, 2, None)
        for number in (0, 1):
            await _hand(agent, first, number)
        await _until(store, 2)
        await asyncio.to_thread(agent.begin, second, 2, first)
        await _hand(agent, second, 0)
        await asyncio.wait_for(store.refused.wait(), WITHIN_S)
        await asyncio.to_thread(agent.begin, second, 2, None)  # the first goes, and with it what is too much
        await _until(store, 1)
        agent.close()


async def test_of_a_script_that_is_forgotten_nothing_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.agent.keeper._FORGET_EVERY_S", 0.05)
    store, key = MemoryStore(), KeeperKeys(name="x").keeper(NodeId("b"))
    script = script_of("file:///theirs")
    save = HeldSave(script=script, version=Version(1, 1 << 50), blobs=0, own={0: 5})
    other = AgentRef(node=NodeId("b"), incarnation="b", host="127.0.0.1", port=1, domain="b")
    async with running(store, tmp_path):
        await store.put(key, encode(KeeperRecord(agent=other, held=(save,))))
        await _tasks(f"script-{script}", "pull-b")
        for number in range(5):
            agent = LocalAgent(tmp_path / "s", f"file:///mine-{number}")
            assert (await asyncio.to_thread(agent.look)).saves == ()
            agent.close()
        await store.put(key, encode(KeeperRecord(agent=other)))
        await _tasks()
        agent = LocalAgent(tmp_path / "s", "file:///mine-0")
        await asyncio.to_thread(agent.begin, Named.now(1, 0), 1, None)
        await _tasks(f"script-{script_of('file:///mine-0')}")
        await asyncio.sleep(0.2)  # of a save that has begun the rest is waited for
        await _tasks(f"script-{script_of('file:///mine-0')}")
        agent.close()


async def _tasks(*expected: str) -> None:
    """Wait until those that serve scripts are these."""
    async with asyncio.timeout(WITHIN_S):
        while sorted(_serving()) != sorted(expected):  # noqa: ASYNC110  tasks tell nobody that they begin
            await asyncio.sleep(0.01)


def _serving() -> Iterator[str]:
    names = (task.get_name() for task in asyncio.all_tasks())
    return (name for name in names if name.startswith(("script-", "pull-")))


async def _hand(agent: LocalAgent, save: Named, number: int) -> None:
    fd = blob_file()
    with open(fd, "wb") as file:  # noqa: ASYNC230  in memory
        file.write(DATA)
        file.flush()
        await asyncio.to_thread(agent.hand, save, number, 0, fd, digest_of(DATA))

"""An agent over a store in memory; its workers are played by the test, over the agent's own sockets."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from harness.server_process import free_ports
from holdfast.agent.agent import Agent
from holdfast.agent.contact import ContactPoint
from holdfast.agent.credentials import Credentials
from holdfast.agent.http import HttpPort, Listening
from holdfast.agent.main import explain
from holdfast.agent.peers import Peers
from holdfast.agent.settings import AgentSettings
from holdfast.errors import LeaseExpiredError, NodeRefusedError, StoreError, StoreUnavailableError
from holdfast.model.claim import ClaimRecord
from holdfast.model.ids import NodeId, SlotId, WorkerId
from holdfast.model.keys import Keys
from holdfast.model.messages import Exit, Failed, Ready
from holdfast.model.records import Cause, GenerationRecord, JobRecord, StopMode
from holdfast.model.wire import FRAME_HEAD, decode_message, encode, encode_message, frame
from holdfast.ports.store import Compare, KeyValue, Operation, TxnResult, WatchEvent
from holdfast.stores.memory import MemoryStore

KEYS, NODE, SECRET = Keys(job="toy"), NodeId("node-0"), b"0123456789abcdef"
JOB = JobRecord(
    spec={
        "name": "toy",
        "program": {"entry": "toy.py:program"},
        "steps": 5,
        "nodes": {"min": 9, "desired": 9},
        "timeouts": {"lease_ttl_s": 1.5, "drain_s": 1.0},
    },
    base="/",
    out="/",
    layer_names=("a",),
    layer_bytes=(8,),
    microbatches=4,
    steps=5,
    id="the first",
)


class Watched(MemoryStore):
    """May be away, may make who asks for a lease or watches wait, and counts leases."""

    def __init__(self) -> None:
        super().__init__()
        self.away, self.leases = False, 0
        self.granting, self.telling, self.asked = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.granting.set()
        self.telling.set()

    async def grant(self, ttl_s: float) -> int:
        self.asked.set()
        await self.granting.wait()
        self.leases += 1
        return await super().grant(ttl_s)

    async def keep_alive(self, lease: int) -> float:
        self._look()
        return await super().keep_alive(lease)

    async def get(self, key: str) -> KeyValue | None:
        self._look()
        return await super().get(key)

    async def transact(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        self._look()
        return await super().transact(compares, then, otherwise)

    async def put(self, key: str, value: bytes, lease: int = 0) -> int:
        self._look()
        return await super().put(key, value, lease)

    async def watch(self, prefix: str, from_revision: int) -> AsyncIterator[tuple[WatchEvent, ...]]:
        async for changes in super().watch(prefix, from_revision):
            await self.telling.wait()
            yield changes

    async def revoke(self, lease: int) -> None:
        self._look()
        await super().revoke(lease)

    def _look(self) -> None:
        if self.away:
            raise StoreUnavailableError("away")


class Running:
    """One agent, and where its port is."""

    def __init__(self, store: Watched, folder: Path, port: int) -> None:
        settings = AgentSettings(
            job="toy",
            node=NODE,
            host="127.0.0.1",
            listening=Listening(host="127.0.0.1", port=port),
            domain="d",
            slots=1,
            scratch=folder,
            secret=SECRET,
        )
        self.store, self.port, self._folder = store, port, folder
        self._writers: list[asyncio.StreamWriter] = []
        self.task = asyncio.create_task(Agent(settings, store, JOB).run())

    async def ask(self, path: str) -> bytes:
        peers = Peers(Credentials(SECRET, "toy"))
        async with asyncio.timeout(10):
            while True:
                try:
                    return await peers.fetch("127.0.0.1", self.port, path, 5)
                except OSError:
                    await asyncio.sleep(0.01)

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
        self.store.away = False
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.store.close()

    async def worker(self) -> asyncio.StreamReader:
        """What one hears that is warm; returns once its node stands in the store."""
        ready = Ready(slot=SlotId(NODE, 0), worker=WorkerId("w"), address="127.0.0.1:1", pid=2**22 + 1)
        reader = await self.connect(ready)
        await self.stands(KEYS.node(NODE))
        return reader

    async def connect(self, first: Ready | Failed) -> asyncio.StreamReader:
        """What a worker hears that says this."""
        path = self._folder / "slot-0.sock"
        async with asyncio.timeout(10):
            while True:
                try:
                    reader, writer = await asyncio.open_unix_connection(path)
                    break
                except OSError:
                    await asyncio.sleep(0.01)
        self._writers.append(writer)
        writer.write(frame(encode_message(first)))
        return reader

    async def stands(self, key: str, other_than: int = 0) -> KeyValue:
        async with asyncio.timeout(10):
            async for _ in self.store.watch(key, 1):
                held = await self.store.get(key)
                if held is not None and held.lease != other_than:
                    return held
        raise AssertionError("a watch has no end")


@pytest.fixture
async def running(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    store = Watched()
    await store.put(KEYS.one("spec"), encode(JOB))
    with tempfile.TemporaryDirectory() as folder:
        # In the zygote's place stands a process that forks nothing.
        still = Path(folder) / "still"
        still.write_text("#!/bin/sh\nexec sleep 600\n")
        still.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(still))
        made = Running(store, Path(folder), *free_ports(1))
        try:
            yield made
        finally:
            await made.close()


@asynccontextmanager
async def another(incarnation: str) -> AsyncIterator[int]:
    port = HttpPort(
        Listening(host="127.0.0.1"),
        Peers(Credentials(SECRET, "toy")),
        lambda: {"incarnation": incarnation, "workers": []},
        dict,
        ContactPoint(lambda _: None),
    )
    await port.open()
    try:
        yield port.port
    finally:
        await port.close()


async def test_an_agent_that_waits_for_its_lease_says_that_it_starts(running: Running) -> None:
    running.store.granting.clear()
    assert b'"state": "starting"' in await running.ask("/status")
    assert b'"workers": []' in await running.ask("/alive")


async def test_an_agent_leaves_when_its_job_was_submitted_anew(running: Running) -> None:
    await running.worker()
    await running.store.put(KEYS.one("spec"), encode(JOB))  # put back by a mender: the same submission
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(running.task), 0.5)

    await running.store.put(KEYS.one("spec"), encode(replace(JOB, id="the second")))

    await asyncio.wait_for(running.task, 10)
    assert await running.store.get(KEYS.claim(NODE)) is None


async def test_a_lease_that_ended_is_followed_by_one_other_and_the_node_stands_there_again(running: Running) -> None:
    await running.worker()
    held = await running.stands(KEYS.node(NODE))

    store = running.store
    store.asked.clear()
    store.telling.clear()
    store.granting.clear()
    before = store.leases
    await store.revoke(held.lease)
    await asyncio.wait_for(store.asked.wait(), 5)  # found out by renewing it
    store.telling.set()  # and only now it is told that the node's record went
    await asyncio.sleep(0.1)
    store.granting.set()

    again = await running.stands(KEYS.node(NODE), other_than=held.lease)
    await asyncio.sleep(1.0)  # a storm of them would begin hundreds within this
    assert running.store.leases == before + 1
    assert (await running.stands(KEYS.node(NODE))).lease == again.lease


async def test_a_replaced_agent_has_its_workers_end_and_says_who_took_the_name(running: Running) -> None:
    reader = await running.worker()
    held = await running.stands(KEYS.claim(NODE))
    async with another("other") as port:
        claim = ClaimRecord(node=NODE, incarnation="other", host="127.0.0.1", port=port, pid=1)
        await running.store.revoke(held.lease)
        await running.store.put(KEYS.claim(NODE), encode(claim), await running.store.grant(60))

        with pytest.raises(NodeRefusedError, match=f"lives at 127.0.0.1 port {port}"):
            await asyncio.wait_for(running.task, 10)
    (size,) = FRAME_HEAD.unpack(await reader.readexactly(FRAME_HEAD.size))
    assert isinstance(decode_message({"Exit": Exit}, await reader.readexactly(size)), Exit)


async def test_the_deadline_of_sigterm_runs_while_the_store_is_away(running: Running) -> None:
    await running.worker()
    running.store.away = True
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running.task, 15)  # drain_s, and a lease's time for what is still to be written


def test_of_many_errors_one_is_told() -> None:
    refused = StoreError("no space; make some")
    group = ExceptionGroup("tasks", [ExceptionGroup("more", [refused]), LeaseExpiredError("gone")])
    assert explain(group) is refused
    assert "KeyError(7)" in str(explain(ExceptionGroup("tasks", [KeyError(7)])))


async def test_an_agent_whose_worker_does_not_get_warm_in_a_job_that_has_begun_leaves_with_an_error(
    running: Running,
) -> None:
    begun = GenerationRecord(
        number=2,
        members=(),
        leavers=(),
        stop=StopMode.ABORT,
        cause=Cause.LOSS,
        reason="x",
        lineage=((1, 0),),
    )
    await running.store.put(KEYS.one("generation"), encode(begun))
    async with asyncio.timeout(10):
        while b'"generation": 2' not in await running.ask("/status"):
            pass
    failed = Failed(step=0, where="start-up", traceback="Traceback:\nRuntimeError: no device\n")
    await running.connect(failed)

    with pytest.raises(NodeRefusedError, match="node-0/0 cannot take part in the job: RuntimeError: no device"):
        await asyncio.wait_for(running.task, 10)
    assert await running.store.get(KEYS.one("failure")) is None
    assert await running.store.get(KEYS.claim(NODE)) is None

"""Replicas that resume: each layer is read from the storage once, and the others have it from who read it."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from harness.waiting import until
from holdfast.agent.checkpoint_reading import Absence, CheckpointReader
from holdfast.agent.contact import ContactPoint
from holdfast.agent.credentials import Credentials
from holdfast.agent.fetching import Fetched, Fetching
from holdfast.agent.http import HttpPort, Listening
from holdfast.agent.peer_tier import PeerTier
from holdfast.agent.peers import Peers
from holdfast.agent.relaying import asked, lines
from holdfast.agent.remote_tier import RemoteTier
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.messages import CHECKPOINT
from holdfast.model.records import (
    Action,
    AgentRef,
    Cause,
    GenerationRecord,
    Restore,
    StartRecord,
    StopMode,
    Version,
)
from holdfast_checkpoint.digest import digest_of
from holdfast_checkpoint.errors import StorageBusyError
from holdfast_checkpoint.folders import folder_of
from holdfast_checkpoint.header import LENGTH
from holdfast_checkpoint.manifest import BlobEntry, Manifest
from holdfast_checkpoint.ram import RamTier
from holdfast_checkpoint.remote import Repository

HOST, VERSION, LAYERS = "127.0.0.1", Version(4, 2), 8
FOLDER = folder_of(4, "run", 2)
NODES = [NodeId(f"node-{n}") for n in range(6)]


def blob(layer: int, size: int = 200_000) -> bytes:
    return LENGTH.pack(size) + bytes([layer]) * (size - LENGTH.size)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Of a checkpoint."""
    made = Repository(str(tmp_path / "checkpoints"))
    entries = []
    for layer in range(LAYERS):
        source = tmp_path / "blob"
        source.write_bytes(blob(layer))
        path = made.put_blob(FOLDER, layer, source, digest_of(blob(layer)))
        entries.append(BlobEntry(layer=layer, name=f"layer-{layer}", path=path, digest=digest_of(blob(layer))))
    made.commit(
        FOLDER,
        Manifest(
            step=4, generation=2, run="run", job="toy", samples=64, created="", identity={}, spec={},
            blobs=tuple(entries),
        ),
    )  # fmt: skip
    return made.url


def start_of(generation: int, *nodes: NodeId) -> StartRecord:
    restores = tuple(
        Restore(layer=layer, target=SlotId(node, 0), sources=()) for layer in range(LAYERS) for node in nodes
    )
    return StartRecord(
        generation=generation,
        action=Action.TRAIN,
        version=VERSION,
        plan=None,
        transfers=(),
        roll_forward=None,
        redone_steps=0,
        initialise=False,
        restores=restores,
        checkpoint=FOLDER,
    )


class Node:
    """What an agent has for its restores."""

    def __init__(self, name: NodeId, url: str, monkeypatch: pytest.MonkeyPatch, *, give_up_s: float) -> None:
        peers = Peers(Credentials(b"0123456789abcdef", "job"))
        self.name, self.ram = name, RamTier()
        self.peers = PeerTier(
            name,
            self.ram,
            peers,
            None,
            on_copied=lambda: None,
            on_pulled=lambda: None,
            on_corrupt=lambda _: None,
        )
        routes = self.peers.routes()
        self.port = HttpPort(Listening(host=HOST), peers, dict, dict, ContactPoint(lambda _: None), for_peers=routes)
        self.remote = RemoteTier(repository=Repository(url, give_up_s=give_up_s))
        self.bytes_read = 0
        self.may_read, self.fails = asyncio.Event(), False
        self.may_read.set()
        self.waits: list[str] = []
        self._absence = Absence(30.0, give_up_s / 2, self.waits.append)
        read = self.remote.repository.read_blob_into

        def counted(folder: str, entry: BlobEntry, buffer: memoryview) -> None:
            while not self.may_read.is_set():
                time.sleep(0.005)
            if self.fails:
                raise StorageBusyError("503")
            self.bytes_read += entry.size
            read(folder, entry, buffer)

        monkeypatch.setattr(self.remote.repository, "read_blob_into", counted)

    def meets(self, generation: int, nodes: "list[Node]") -> None:
        agents = tuple(
            AgentRef(node=node.name, incarnation="i", host=HOST, port=node.port.port, domain=node.name)
            for node in nodes
        )
        record = GenerationRecord(
            number=generation,
            members=(),
            leavers=(),
            stop=StopMode.BOUNDARY,
            cause=Cause.START,
            reason="test",
            agents=agents,
        )
        self.peers.place(record, start_of(generation), [0] * LAYERS, 0)

    async def restore(self, start: StartRecord) -> dict[int, Fetched]:
        found: dict[int, Fetched] = {}
        self.peers.arrivals.expect(start.generation, range(LAYERS))
        await Fetching(
            node=self.name,
            start=start,
            ram=self.ram,
            reader=CheckpointReader(self.remote, FOLDER, VERSION, self.ram, self._absence),
            lines=lines(start.restores, [200_000] * LAYERS),
            pull=self.peers.pull,
            on_corrupt=lambda _: None,
            on_spoilt=lambda _: None,
            on_ended=lambda layer: self.peers.arrivals.ended(start.generation, layer),
        ).run(lambda fetched: found.update({fetched.restore.layer: fetched}))
        return found

    def held(self) -> dict[int, bytes]:
        copies = {layer: self.ram.find(layer, VERSION.step, VERSION.generation)[0] for layer in range(LAYERS)}
        return {layer: os.pread(copy.file.fileno(), copy.digest.size + 1, 0) for layer, copy in copies.items()}

    async def close(self) -> None:
        await self.port.close()
        self.peers.close()
        await self.remote.close(0.0)
        self.ram.close()


@pytest.fixture
async def nodes(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        # Tests keep the first one from its storage; the others are to be patient also on a machine that is busy.
        patience = {NODES[0]: 0.1}
        made = [Node(name, url, monkeypatch, give_up_s=patience.get(name, 20.0)) for name in NODES]
        for node in made:
            await node.port.open()
            stack.push_async_callback(node.close)
        for node in made:
            node.meets(3, made)
        yield made


async def test_the_bytes_read_from_the_storage_are_the_checkpoints_however_many_want_it(nodes: list[Node]) -> None:
    start = start_of(3, *NODES)
    async with asyncio.timeout(60):
        found = await asyncio.gather(*(node.restore(start) for node in nodes))

    assert all(node.held() == {layer: blob(layer) for layer in range(LAYERS)} for node in nodes)
    assert sum(node.bytes_read for node in nodes) == LAYERS * 200_000
    assert max(node.bytes_read for node in nodes) == 2 * 200_000, "spread evenly"
    read = [layer for of_node in found for layer, one in of_node.items() if one.source == CHECKPOINT]
    assert sorted(read) == list(range(LAYERS))


async def test_a_layer_that_is_still_to_come_is_waited_for_where_it_comes(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.agent.peer_tier._HELD_S", 0.05)  # so it is asked for more than once
    start = start_of(3, *NODES)
    (first, *others) = nodes
    first.may_read.clear()
    async with asyncio.timeout(60):
        early = [asyncio.create_task(node.restore(start)) for node in others]
        await asyncio.sleep(0.3)  # it has not even seen the start yet
        late = asyncio.create_task(first.restore(start))
        await until(lambda: first.waits)
        assert not any(task.done() for task in early)
        assert not any(node.waits for node in others), "who waits for a peer does not wait for the storage"
        first.may_read.set()
        await asyncio.gather(*early, late)
    assert sum(node.bytes_read for node in nodes) == LAYERS * 200_000


async def test_where_a_reader_cannot_read_the_others_read_for_themselves(nodes: list[Node]) -> None:
    start = start_of(3, *NODES)
    (first, *others) = nodes
    first.fails = True
    line = next(line for line in lines(start.restores, [200_000] * LAYERS).values() if line[0] == first.name)
    async with asyncio.timeout(60):
        failing = asyncio.create_task(first.restore(start))
        await until(lambda: first.waits)
        reading = [asyncio.create_task(node.restore(start)) for node in others]
        await asyncio.sleep(0.1)
        assert asked(line, others[0].name)[-1] == first.name
        # It gives up: the storage was away for too long.
        failing.cancel()
        await asyncio.wait([failing])
        await asyncio.gather(*reading)
    assert all(node.held() == {layer: blob(layer) for layer in range(LAYERS)} for node in others)

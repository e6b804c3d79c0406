"""Copies of snapshots at peers: they arrive bit for bit, over real sockets, whatever happens on the way."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from harness.realrun.certificates import Authority
from holdfast.agent.blob_client import BlobClient, PeerAddress, Waits
from holdfast.agent.blob_serving import Serving, ServingLimits
from holdfast.agent.contact import ContactPoint
from holdfast.agent.credentials import Credentials
from holdfast.agent.http import HttpPort, Listening
from holdfast.agent.offers import Offer, Question, Version, blob_target
from holdfast.agent.peers import Peers
from holdfast.agent.pulling import Patience, Puller
from holdfast.agent.tls import TlsFiles
from holdfast.errors import ProtocolError
from holdfast.model.ids import NodeId
from holdfast_checkpoint.digest import digest_of
from holdfast_checkpoint.errors import CorruptError, NoCheckpointError, StorageBusyError
from holdfast_checkpoint.header import LENGTH
from holdfast_checkpoint.ram import Copy, Incoming, RamTier

SECRET = b"0123456789abcdef"
HOST = "127.0.0.1"
EAGER = Patience(first_pause_s=0.01, longest_pause_s=0.05)
FIRST, SECOND, THIRD = Version(10, 1), Version(20, 1), Version(5, 2)  # the third is of a generation that went back


def blob(layer: int, version: Version, size: int = 300_000) -> bytes:
    """As far as RAM is concerned: a length, then bytes that differ by layer and version."""
    begin = LENGTH.pack(size) + f"{layer}/{version}".encode()
    return begin + os.urandom(size - len(begin))


class Node:
    """What an agent has of the peer tier; its workers' snapshots are memfds of this process."""

    def __init__(
        self, name: str, peers: Peers, limits: ServingLimits | None = None, waits: Waits | None = None
    ) -> None:
        self.name, self.peers, self.ram = name, peers, RamTier()
        self.copied: list[tuple[str, Version, frozenset[int]]] = []
        self.corrupt: list[Copy] = []
        limits = limits if limits is not None else ServingLimits()
        self.serving = Serving(self.ram, limits, lambda *said: self.copied.append(said), self.corrupt.append)
        self.port = HttpPort(
            Listening(host=HOST), peers, dict, dict, ContactPoint(lambda _: None), for_peers=self.serving.routes()
        )
        self.client = BlobClient(peers, waits=waits if waits is not None else Waits(stalled_s=5))
        self.known: dict[str, PeerAddress] = {}
        self.puller = Puller(NodeId(name), self.ram, peers, self.client, self.known.get, patience=EAGER)
        self._memory: list[int] = []

    @property
    def address(self) -> PeerAddress:
        return PeerAddress(node=self.name, host=HOST, port=self.port.port)

    def take(self, version: Version, *layers: int, size: int = 300_000) -> dict[int, bytes]:
        """A snapshot by this node's worker."""
        taken = {layer: blob(layer, version, size) for layer in layers}
        for layer, data in taken.items():
            fd = os.memfd_create("snapshot")
            self._memory.append(fd)
            os.write(fd, data)
            self.ram.adopt("own:0", layer, *version, f"/proc/self/fd/{fd}", digest_of(data))
        self.serving.changed()
        return taken

    def flip(self, at: int) -> None:
        """One bit, in the last blob taken."""
        (byte,) = os.pread(self._memory[-1], 1, at)
        os.pwrite(self._memory[-1], bytes([byte ^ 4]), at)

    def held(self, version: Version) -> dict[int, bytes]:
        """What lies here in RAM of that version."""
        layers = self.ram.versions().get(version, frozenset())
        return {layer: content(self.ram.find(layer, *version)[0]) for layer in layers}

    async def close(self) -> None:
        await self.port.close()
        self.client.close()
        self.ram.close()
        for fd in self._memory:
            os.close(fd)


def content(copy: Copy) -> bytes:
    with copy.file.hold() as fd:
        return os.pread(fd, copy.digest.size + 1, 0)


def peers(secret: bytes = SECRET, tls: TlsFiles | None = None) -> Peers:
    return Peers(Credentials(secret, "job"), tls)


class Nodes:
    """Their ports and pullers, until the test ends."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def start(
        self,
        name: str,
        known: Peers | None = None,
        limits: ServingLimits | None = None,
        waits: Waits | None = None,
    ) -> Node:
        node = Node(name, known if known is not None else peers(), limits, waits)
        await node.port.open()
        self._stack.push_async_callback(node.close)
        task = asyncio.create_task(node.puller.run(), name=f"puller-{name}")
        self._stack.push_async_callback(end, task)
        return node

    async def impostor(self, answer: bytes | None) -> PeerAddress:
        """Who answers every request like that, and closes; None: says nothing."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            if answer is None:
                await reader.read()  # until the other closes
            else:
                writer.write(answer)
                await writer.drain()

        return await self._listen("impostor", serve)

    async def relay(self, target: PeerAddress, change: Callable[[int, bytes], bytes | None]) -> PeerAddress:
        """A stretch of wire: `change` is given the bytes that come back, and of which connection; None cuts it."""
        connections = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            mine = connections
            there, thither = await asyncio.open_connection(target.host, target.port)

            async def forth() -> None:
                while data := await reader.read(65536):
                    thither.write(data)

            forward = asyncio.create_task(forth())
            try:
                while data := await there.read(65536):
                    changed = change(mine, data)
                    if changed is None:
                        return
                    writer.write(changed)
                    await writer.drain()
            finally:
                await end(forward)
                await gone(thither)

        return await self._listen(target.node, serve)

    async def _listen(
        self, name: str, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> PeerAddress:
        tasks = set[asyncio.Task[None]]()

        async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                await serve(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass
            finally:
                await gone(writer)
                tasks.discard(task)

        async def close() -> None:
            server.close()
            for task in list(tasks):
                await end(task)

        server = await asyncio.start_server(guarded, HOST, 0)
        self._stack.push_async_callback(close)
        return PeerAddress(node=name, host=HOST, port=server.sockets[0].getsockname()[1])


async def gone(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()


@pytest.fixture
async def nodes() -> AsyncIterator[Nodes]:
    async with AsyncExitStack() as stack:
        yield Nodes(stack)


async def until(condition: Callable[[], object], what: str, within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.005)


async def pull(node: Node, peer: PeerAddress, layer: int, version: Version, digest_from: Node) -> bytes:
    digest = digest_from.ram.find(layer, *version)[0].digest
    memory = bytearray(digest.size)
    await node.client.pull(peer, layer, version, digest, memoryview(memory))
    return bytes(memory)


async def test_a_snapshot_is_copied_as_soon_as_it_is_taken_and_its_owner_hears_of_it(nodes: Nodes) -> None:
    owner, keeper = await nodes.start("owner"), await nodes.start("keeper")
    keeper.known["owner"] = owner.address
    keeper.puller.follow({"owner": [0, 2]})
    taken = owner.take(FIRST, 0, 1, 2)

    await until(lambda: owner.copied, "the owner hears of its copies")
    assert owner.copied == [("keeper", FIRST, frozenset({0, 2}))]
    assert keeper.held(FIRST) == {layer: taken[layer] for layer in (0, 2)}
    assert owner.serving.holders(FIRST, 2) == {"keeper"}
    assert not owner.serving.holders(FIRST, 1)
    assert {copy.origin for copy in keeper.ram.find(0, *FIRST)} == {"peer:owner"}

    taken = owner.take(SECOND, 0, 2)
    await until(lambda: len(owner.copied) == 2, "and of those of the next one")
    assert keeper.held(SECOND) == taken


async def test_two_nodes_keep_copies_for_each_other_and_for_a_third(nodes: Nodes) -> None:
    started = [await nodes.start(name) for name in "abc"]
    taken = {node.name: node.take(FIRST, layer) for layer, node in enumerate(started)}
    for node in started:
        others = [other for other in started if other is not node]
        node.known.update({other.name: other.address for other in others})
        node.puller.follow({other.name: taken[other.name].keys() for other in others})
    everything = taken["a"] | taken["b"] | taken["c"]
    await until(lambda: all(node.held(FIRST) == everything for node in started), "everybody holds everything")


async def test_the_kept_version_stays_while_newer_ones_come_and_go(nodes: Nodes) -> None:
    owner, keeper = await nodes.start("owner"), await nodes.start("keeper")
    keeper.known["owner"] = owner.address
    keeper.puller.follow({"owner": [0]})
    kept = owner.take(FIRST, 0)
    await until(lambda: keeper.held(FIRST) == kept, "the first version")
    owner.serving.keep(FIRST)
    for version in (SECOND, THIRD):
        taken = owner.take(version, 0)
        await until(lambda: keeper.held(version) == taken, f"version {version}")  # noqa: B023
        assert keeper.held(FIRST) == kept
        assert len(keeper.ram.versions()) == 2, "no third copy of a layer"

    owner.serving.keep(THIRD)
    newest = owner.take(Version(6, 2), 0)
    await until(lambda: keeper.held(Version(6, 2)) == newest, "the newest version")
    assert list(keeper.ram.versions()) == [THIRD, Version(6, 2)]


async def test_a_source_that_went_back_to_an_older_version_hears_of_its_copies_too(nodes: Nodes) -> None:
    owner, keeper = await nodes.start("owner"), await nodes.start("keeper")
    keeper.known["owner"] = owner.address
    keeper.puller.follow({"owner": [0]})
    newer = owner.take(SECOND, 0)
    await until(lambda: keeper.held(SECOND) == newer, "the newer version")
    owner.ram.keep_only(lambda copy: False)
    older = owner.take(FIRST, 0)
    await until(lambda: owner.serving.holders(FIRST, 0), "the owner hears of it")
    assert keeper.held(FIRST) == older


async def test_what_the_agent_says_is_kept_stays_even_if_its_source_has_not_heard_of_it(nodes: Nodes) -> None:
    owner, keeper = await nodes.start("owner"), await nodes.start("keeper")
    keeper.known["owner"] = owner.address
    keeper.puller.follow({"owner": [0]})
    kept = owner.take(FIRST, 0)
    await until(lambda: keeper.held(FIRST) == kept, "the first version")
    keeper.puller.keep(FIRST)
    for version in (SECOND, THIRD):
        owner.take(version, 0)
        await until(lambda: keeper.held(version), f"version {version}")  # noqa: B023
    assert keeper.held(FIRST) == kept


async def test_copies_of_layers_that_others_keep_now_stay_until_a_newer_version_is_kept(nodes: Nodes) -> None:
    owner, keeper = await nodes.start("owner"), await nodes.start("keeper")
    keeper.known["owner"] = owner.address
    keeper.puller.follow({"owner": [0, 1]})
    taken = owner.take(FIRST, 0, 1)
    await until(lambda: keeper.held(FIRST) == taken, "the first version")

    keeper.puller.follow({"owner": [1]})
    keeper.puller.keep(FIRST)
    assert keeper.held(FIRST) == taken
    keeper.puller.keep(SECOND)
    assert list(keeper.held(FIRST)) == [1]


async def test_a_flipped_bit_in_its_owners_ram_is_found_named_and_that_copy_dropped(
    nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    owner, keeper = await nodes.start("owner"), await nodes.start("keeper")
    keeper.known["owner"] = owner.address
    owner.take(FIRST, 3)
    owner.flip(at=200_000)
    keeper.puller.follow({"owner": [3]})

    await until(lambda: owner.corrupt, "the owner looks at its own copy")
    assert [(copy.layer, copy.version) for copy in owner.corrupt] == [(3, FIRST)]
    assert "layer 3, step 10, from owner is corrupt between bytes 0 and 300000" in str(errors(caplog))
    assert not owner.ram.find(3, *FIRST)
    assert not keeper.held(FIRST)
    sound = owner.take(SECOND, 3)
    await until(lambda: keeper.held(SECOND) == sound, "the next version, which is sound")


async def test_a_bit_flipped_on_the_way_is_found_and_the_blob_sent_anew(
    nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    owner, keeper = await nodes.start("owner"), await nodes.start("keeper")
    taken = owner.take(FIRST, 0)
    flipped = False

    def flip_once(_: int, data: bytes) -> bytes:
        nonlocal flipped
        if flipped or len(data) < 20_000 or data.startswith(b"HTTP"):
            return data
        flipped = True
        return bytes([data[0] ^ 1]) + data[1:]

    keeper.known["owner"] = await nodes.relay(owner.address, flip_once)
    keeper.puller.follow({"owner": [0]})
    await until(lambda: keeper.held(FIRST) == taken, "the copy is sound in the end")
    assert flipped
    assert len(errors(caplog)) == 1
    assert not owner.corrupt, "its copy is sound"


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [str(vars(record)["error"]) for record in caplog.records if record.getMessage() == "copy.corrupt"]


async def test_a_source_that_is_cut_off_in_the_middle_is_asked_again(nodes: Nodes) -> None:
    owner, keeper = await nodes.start("owner"), await nodes.start("keeper")
    taken = owner.take(FIRST, 0, 1, size=3_000_000)
    came: dict[int, int] = {}

    def cut_the_first(connection: int, data: bytes) -> bytes | None:
        came[connection] = came.get(connection, 0) + len(data)
        return None if len(came) < 6 and came[connection] > 1_000_000 else data

    keeper.known["owner"] = await nodes.relay(owner.address, cut_the_first)
    keeper.puller.follow({"owner": [0, 1]})
    await until(lambda: keeper.held(FIRST) == taken, "the copies")
    assert len(came) >= 6


async def test_a_source_that_says_nothing_is_given_up_and_holds_up_no_other(nodes: Nodes) -> None:
    owner = await nodes.start("owner")
    keeper = await nodes.start("keeper", waits=Waits(stalled_s=0.1))
    taken = owner.take(FIRST, 1)
    silent = await nodes.impostor(None)
    keeper.known |= {"owner": owner.address, "silent": silent}
    keeper.puller.follow({"silent": [0], "owner": [1], "unknown": [2]})
    await until(lambda: keeper.held(FIRST) == taken, "the copy from who answers")
    with pytest.raises(TimeoutError):
        await pull(keeper, silent, 1, FIRST, owner)


async def test_a_pull_that_is_cancelled_leaves_its_memory_alone_and_frees_the_source(nodes: Nodes) -> None:
    owner = await nodes.start("owner", limits=ServingLimits(bytes_s=4_000_000, streams=1))
    keeper = await nodes.start("keeper")
    owner.take(FIRST, 0, size=20_000_000)
    owner.take(FIRST, 1)
    digest = owner.ram.find(0, *FIRST)[0].digest
    memory = bytearray(digest.size)
    task = asyncio.create_task(keeper.client.pull(owner.address, 0, FIRST, digest, memoryview(memory)))
    await until(lambda: any(memory[:1000]), "the first bytes")
    await end(task)
    assert task.cancelled()
    assert not any(memory[-1000:]), "it was cut off, not waited for"
    left = bytes(memory)
    assert await pull(keeper, owner.address, 1, FIRST, owner), "its stream is free again"
    assert bytes(memory) == left


async def test_streams_are_bounded_and_what_is_urgent_has_its_own(nodes: Nodes) -> None:
    limits = ServingLimits(bytes_s=2_000_000, streams=1, turn_s=0.05)
    owner, keeper = await nodes.start("owner", limits=limits), await nodes.start("keeper")
    taken = owner.take(FIRST, 0, size=20_000_000)
    digest = owner.ram.find(0, *FIRST)[0].digest
    first, second = bytearray(digest.size), bytearray(digest.size)
    slow = asyncio.create_task(keeper.client.pull(owner.address, 0, FIRST, digest, memoryview(first)))
    await until(lambda: any(first[:1000]), "the first bytes")
    with pytest.raises(StorageBusyError, match="1 streams are sent already"):
        await keeper.client.pull(owner.address, 0, FIRST, digest, memoryview(second))
    urgent = BlobClient(keeper.peers, urgent=True)
    await urgent.pull(owner.address, 0, FIRST, digest, memoryview(second))
    urgent.close()
    assert second == taken[0], "at once, though others are held back"
    assert not slow.done()
    await end(slow)


@pytest.mark.parametrize("secured", [False, True])
async def test_copies_do_not_come_faster_than_they_may(nodes: Nodes, tmp_path: Path, secured: bool) -> None:
    """At 8 MB/s, 6 MB and, at the same time, another 6 MB take a second and a half at least."""
    known = over_tls(tmp_path) if secured else peers()
    owner = await nodes.start("owner", known, limits=ServingLimits(bytes_s=8_000_000))
    keeper = await nodes.start("keeper", known)
    owner.take(FIRST, 0, 1, size=6_000_000)
    begun_s = time.monotonic()
    await asyncio.gather(*(pull(keeper, owner.address, layer, FIRST, owner) for layer in (0, 1)))
    assert time.monotonic() - begun_s > 1.5 / 2


def over_tls(folder: Path) -> Peers:
    authority = Authority(folder)
    certificate, key = authority.issue("node")
    return peers(tls=TlsFiles(certificate=certificate, key=key, authority=authority.certificate))


async def test_copies_travel_over_tls(nodes: Nodes, tmp_path: Path) -> None:
    known = over_tls(tmp_path)
    owner, keeper = await nodes.start("owner", known), await nodes.start("keeper", known)
    keeper.known["owner"] = owner.address
    keeper.puller.follow({"owner": [0, 1]})
    taken = owner.take(FIRST, 0, 1, size=2_500_000)
    await until(lambda: keeper.held(FIRST) == taken, "the copies")
    stranger = await nodes.start("stranger", waits=Waits(stalled_s=1))
    with pytest.raises((OSError, ProtocolError)):
        await pull(stranger, owner.address, 0, FIRST, owner)


async def test_who_does_not_know_the_secret_gets_no_copy_and_gives_none(nodes: Nodes) -> None:
    owner = await nodes.start("owner")
    stranger = await nodes.start("stranger", peers(b"another secret, of somebody"))
    taken = owner.take(FIRST, 0)
    stranger.take(FIRST, 0)
    with pytest.raises(ProtocolError, match="refused with status 401"):
        await pull(stranger, owner.address, 0, FIRST, owner)
    # It admits everybody, and answers with the very bytes: that it does not know the secret gives it away.
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\nHoldfast-Proof: %s\r\n\r\n%s" % (b"0" * 64, taken[0])
    forger = await nodes.impostor(answer)
    with pytest.raises(ProtocolError, match="not signed with this job's secret"):
        await pull(owner, forger, 0, FIRST, owner)
    for target in (
        Question(node=NodeId("x"), incarnation="i", layers=frozenset({0})).target,
        blob_target(0, FIRST, 0, 10),
    ):
        url = f"http://{HOST}:{owner.address.port}{target}"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            assert response.status == 401


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-something\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 500 Oops\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000,
    ],
    ids=["nothing", "other protocol", "no length", "bad length", "error", "endless head"],
)
async def test_what_is_no_answer_of_an_agent_is_refused(nodes: Nodes, answer: bytes) -> None:
    owner = await nodes.start("owner")
    owner.take(FIRST, 0)
    with pytest.raises((ProtocolError, ConnectionError)):
        await pull(owner, await nodes.impostor(answer), 0, FIRST, owner)


async def test_what_is_not_there_is_said_so(nodes: Nodes) -> None:
    owner, keeper = await nodes.start("owner"), await nodes.start("keeper")
    owner.take(FIRST, 0)
    digest = owner.ram.find(0, *FIRST)[0].digest
    with pytest.raises(NoCheckpointError, match="layer 0, step 20, generation 1 is not in RAM here"):
        await keeper.client.pull(owner.address, 0, SECOND, digest, memoryview(bytearray(digest.size)))


async def test_a_question_is_answered_in_time_even_if_there_is_nothing_new(nodes: Nodes) -> None:
    owner = await nodes.start("owner", limits=ServingLimits(poll_s=0.05))
    question = Question(node=NodeId("keeper"), incarnation="i", layers=frozenset({0}))
    offer = Offer.read(await owner.peers.poll(HOST, owner.port.port, question.target, 10))
    assert offer == Offer(version=None, kept=None)


async def test_a_node_that_is_gone_holds_no_copies_and_its_end_says_nothing_of_who_came_after_it(nodes: Nodes) -> None:
    owner, keeper = await nodes.start("owner"), await nodes.start("keeper")
    keeper.known["owner"] = owner.address
    keeper.puller.incarnation = "second"
    keeper.puller.follow({"owner": [0]})
    owner.take(FIRST, 0)
    await until(lambda: owner.serving.holders(FIRST, 0), "the copy")
    owner.serving.forget([(NodeId("keeper"), "first")])
    assert owner.serving.holders(FIRST, 0) == {"keeper"}, "that was another one"
    owner.serving.forget([(NodeId("keeper"), "second")])
    assert not owner.serving.holders(FIRST, 0)


async def test_a_large_blob_comes_in_parts_over_several_connections(nodes: Nodes) -> None:
    owner, keeper = await nodes.start("owner"), await nodes.start("keeper")
    taken = owner.take(FIRST, 0, size=(80 << 20) + 12_345)
    connections = set()

    def count(connection: int, data: bytes) -> bytes:
        connections.add(connection)
        return data

    relayed = await nodes.relay(owner.address, count)
    assert await pull(keeper, relayed, 0, FIRST, owner) == taken[0]
    assert len(connections) == 2


async def test_a_part_that_gets_no_stream_of_its_own_comes_after_the_other(nodes: Nodes) -> None:
    limits = ServingLimits(streams=1, turn_s=0.001, bytes_s=150_000_000)
    owner, keeper = await nodes.start("owner", limits=limits), await nodes.start("keeper")
    taken = owner.take(FIRST, 0, size=70 << 20)
    assert await pull(keeper, owner.address, 0, FIRST, owner) == taken[0]


@pytest.mark.parametrize("query", ["", "?start=0", "?start=5&stop=5", "?start=0&stop=300001", "?start=-1&stop=5"])
async def test_bytes_that_a_blob_does_not_have_are_refused(nodes: Nodes, query: str) -> None:
    owner = await nodes.start("owner")
    owner.take(FIRST, 0)
    with pytest.raises(ProtocolError, match="refused with status 400"):
        await owner.peers.fetch(HOST, owner.port.port, f"/blobs/0/10/1{query}", 10)


async def test_a_corrupt_chunk_is_named_by_its_place(nodes: Nodes) -> None:
    owner, keeper = await nodes.start("owner"), await nodes.start("keeper")
    owner.take(FIRST, 0, size=17 << 20)
    owner.flip(at=(16 << 20) + 5)
    with pytest.raises(CorruptError, match=f"between bytes {16 << 20} and {17 << 20}"):
        await pull(keeper, owner.address, 0, FIRST, owner)


SOURCE = """
import asyncio, os, sys
from holdfast.agent.blob_serving import Serving, ServingLimits
from holdfast.agent.contact import ContactPoint
from holdfast.agent.credentials import Credentials
from holdfast.agent.http import HttpPort, Listening
from holdfast.agent.peers import Peers
from holdfast_checkpoint.digest import digest_of
from holdfast_checkpoint.ram import RamTier

async def main():
    data = bytes(range(1, 251)) * 200_000
    fd = os.memfd_create("snapshot")
    os.write(fd, data)
    ram = RamTier()
    ram.adopt("own:0", 0, 10, 1, f"/proc/self/fd/{fd}", digest_of(data))
    limits = ServingLimits(bytes_s=int(sys.argv[1]) or None)
    serving = Serving(ram, limits, lambda *said: None, lambda copy: None)
    peers = Peers(Credentials(b"0123456789abcdef", "job"))
    port = HttpPort(Listening(host="127.0.0.1"), peers, dict, dict, ContactPoint(lambda _: None),
                    for_peers=serving.routes())
    await port.open()
    print(port.port, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@contextmanager
def source(bytes_s: int) -> Iterator[tuple[subprocess.Popen[str], PeerAddress]]:
    """A process of its own that serves 50 MB."""
    process = subprocess.Popen([sys.executable, "-c", SOURCE, str(bytes_s)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, PeerAddress(node="source", host=HOST, port=int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


async def test_a_source_killed_in_the_middle_is_replaced_by_the_next_one(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = await nodes.start("keeper")
    buffers: list[Incoming] = []

    def new_buffer(*named: Any) -> Incoming:
        buffers.append(keeper_new_buffer(*named))
        return buffers[-1]

    keeper_new_buffer = keeper.ram.new_buffer
    monkeypatch.setattr(keeper.ram, "new_buffer", new_buffer)
    keeper.puller.follow({"source": [0]})
    with source(5_000_000) as (first, address):
        keeper.known["source"] = address
        await until(lambda: buffers and buffers[0].memory[0], "the first bytes came")
        first.send_signal(signal.SIGKILL)
        with source(0) as (_, again):
            keeper.known["source"] = again
            await until(lambda: keeper.held(FIRST), "the copy")
    assert keeper.held(FIRST) == {0: bytes(range(1, 251)) * 200_000}
    assert len(buffers) > 1, "the first was given up"

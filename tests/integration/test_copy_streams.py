"""Copies on their way: they arrive bit for bit, over real sockets, whatever happens."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from harness.copies import (
    FIRST,
    HOST,
    SECOND,
    Nodes,
    end,
    peers,
    pull,
)
from harness.realrun.certificates import Authority
from harness.waiting import until
from holdfast.agent.blob_client import BlobClient, PeerAddress, Waits
from holdfast.agent.blob_serving import ServingLimits
from holdfast.agent.offers import Question, blob_target
from holdfast.agent.peers import Peers
from holdfast.agent.tls import TlsFiles
from holdfast.errors import ProtocolError
from holdfast.model.ids import NodeId
from holdfast_checkpoint.errors import CorruptError, NoCheckpointError, StorageBusyError
from holdfast_checkpoint.ram import Incoming


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

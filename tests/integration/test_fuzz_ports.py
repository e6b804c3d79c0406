"""Random bytes at every port and socket: whoever sends them is turned away, and everybody else is served as before."""

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.fuzzing import BYTES, JSON, unhandled
from holdfast.agent.contact import ContactPoint
from holdfast.agent.credentials import Credentials
from holdfast.agent.fork_server import Command, ForkServerProcess
from holdfast.agent.http import HttpPort, Listening
from holdfast.agent.peers import Peers
from holdfast.agent.probing import Verdict, probe
from holdfast.agent.workers import Workers
from holdfast.model.ids import NodeId
from holdfast.model.messages import Exit, FromWorker, Stop
from holdfast.model.records import JobRecord
from holdfast.model.wire import FRAME_HEAD, encode_message, frame
from holdfast.stores.embedded import EmbeddedServer, EmbeddedStore
from holdfast.worker.channel import Channel
from holdfast.worker.comm import WORLD, Comm, GroupSpec
from holdfast.worker.main import serve_store
from holdfast.worker.process_groups import GlooBackend, duplicated, open_sockets
from holdfast.worker.pulse import Pulse

FUZZ = settings(max_examples=60, suppress_health_check=list(HealthCheck))
SECRET = b"0123456789abcdef"
REQUESTS = st.one_of(
    BYTES,
    st.builds(
        lambda method, path, headers: b"%b %b HTTP/1.1\r\n%b\r\n\r\n" % (method, path, b"\r\n".join(headers)),
        st.sampled_from([b"GET", b"POST", b"HEAD", b"\xff", b""]),
        st.one_of(st.sampled_from([b"/alive", b"/contact?node=x", b"/status", b"/metrics", b"*", b"//"]), BYTES),
        st.lists(
            st.one_of(
                BYTES,
                st.sampled_from(
                    [
                        b"Content-Length: 99999999",
                        b"Content-Length: -1",
                        b"Transfer-Encoding: chunked",
                        b"Authorization: Holdfast 1 " + b"a" * 32 + b" " + b"b" * 64,
                        b"Authorization: Bearer \xff",
                        b"Connection: Upgrade",
                        b"X: " + b"y" * 9000,
                    ]
                ),
            ),
            max_size=4,
        ),
    ),
)
MESSAGES = st.one_of(
    BYTES,
    BYTES.map(frame),
    JSON.map(lambda value: frame(b"Ready " + json.dumps({"v": 1, "body": value}).encode())),
    st.sampled_from(
        ["Ready", "Parked", "Running", "Committed", "Broken", "Failed", "Finished", "Stop", "Start"]
    ).flatmap(
        lambda kind: JSON.map(
            lambda value: frame(kind.encode() + b' {"v":1,"body":' + json.dumps(value).encode() + b"}")
        )
    ),
    st.integers(0, 2**32 - 1).map(lambda size: FRAME_HEAD.pack(size) + b"short"),
)
JOB = JobRecord(spec={}, base="/", out="/", layer_names=(), layer_bytes=(), microbatches=1, steps=1)


async def send(
    connect: Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]], data: bytes
) -> None:
    """Say it, hear what is answered within a moment, and hang up."""
    reader, writer = await connect()
    with suppress(OSError):
        writer.write(data)
        writer.write_eof()
        await writer.drain()
        with suppress(TimeoutError):
            await asyncio.wait_for(reader.read(4096), 0.2)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


def run(work: Coroutine[Any, Any, None]) -> None:
    """On a loop of its own, on which nothing may end in an exception that nobody takes."""
    with unhandled() as troubles:

        async def watched() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
            await work

        asyncio.run(watched())
    assert not troubles


@FUZZ
@given(requests=st.lists(REQUESTS, min_size=1, max_size=5))
def test_an_agents_http_port_answers_its_peers_whatever_strangers_send(requests: list[bytes]) -> None:
    async def work() -> None:
        peers = Peers(Credentials(SECRET, "job"))
        contacts: list[NodeId] = []
        port = HttpPort(
            Listening(host="127.0.0.1"),
            peers,
            lambda: {"incarnation": "i", "workers": ["w"]},
            dict,
            ContactPoint(contacts.append),
        )
        await port.open()
        try:
            await asyncio.gather(
                *(send(lambda: asyncio.open_connection("127.0.0.1", port.port), data) for data in requests)
            )
            assert await probe(peers, "127.0.0.1", port.port, "i", 5) == (Verdict.ALIVE, ("w",))
        finally:
            await port.close()
        assert not contacts

    run(work())


@FUZZ
@given(answer=st.one_of(BYTES, BYTES.map(lambda data: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" + data)))
def test_whatever_a_stranger_answers_to_a_probe_says_nothing(answer: bytes) -> None:
    async def work() -> None:
        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answer)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            number = server.sockets[0].getsockname()[1]
            assert (await probe(Peers(Credentials(SECRET, "job")), "127.0.0.1", number, "i", 1))[0] is Verdict.SILENT

    run(work())


@FUZZ
@given(
    messages=st.lists(
        st.one_of(
            BYTES,
            BYTES.map(lambda data: len(data).to_bytes(4, "big") + data),
            JSON.map(lambda value: (text := json.dumps(value).encode()) and len(text).to_bytes(4, "big") + text),
            JSON.map(
                lambda value: (
                    (text := json.dumps({"v": 1, "id": 0, "settled": 0, "method": "hello", "args": value}).encode())
                    and len(text).to_bytes(4, "big") + text
                )
            ),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_the_embedded_store_serves_its_clients_whatever_strangers_send(messages: list[bytes]) -> None:
    async def work() -> None:
        server = EmbeddedServer(secret=SECRET)
        await server.start()
        store = EmbeddedStore(server.host, server.port, secret=SECRET)
        try:
            await asyncio.gather(
                *(send(lambda: asyncio.open_connection(server.host, server.port), data) for data in messages)
            )
            await store.put("key", b"value")
            snapshot = await store.get_prefix("")
            assert [(kv.key, kv.value) for kv in snapshot.kvs] == [("key", b"value")]
        finally:
            await store.close()
            await server.close()

    run(work())


@FUZZ
@given(requests=st.lists(st.tuples(st.sampled_from(["put", "transact", "poll", "grant", "x"]), JSON), max_size=5))
def test_a_client_that_has_the_secret_can_harm_no_other_by_nonsense(requests: list[tuple[str, Any]]) -> None:
    """Such as one of another version."""

    async def nonsense(server: EmbeddedServer) -> None:
        from holdfast.stores.wire import encode_frame, prove, read_frame

        reader, writer = await asyncio.open_connection(server.host, server.port)
        greeting = await read_frame(reader)
        assert greeting is not None
        args = ["session", prove(SECRET, str(greeting["nonce"]))]
        writer.write(encode_frame({"id": 0, "settled": 0, "method": "hello", "args": args}))
        await read_frame(reader)
        for number, (method, value) in enumerate(requests, 1):
            with suppress(OSError):
                writer.write(encode_frame({"id": number, "settled": 0, "method": method, "args": value}))
        with suppress(OSError, TimeoutError):
            await asyncio.wait_for(reader.read(4096), 0.1)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def work() -> None:
        server = EmbeddedServer(secret=SECRET)
        await server.start()
        store = EmbeddedStore(server.host, server.port, secret=SECRET)
        try:
            await nonsense(server)
            revision = await store.put("key", b"value")
            held = await store.get("key")
            assert held is not None
            assert held.mod_revision == revision
        finally:
            await store.close()
            await server.close()

    run(work())


@asynccontextmanager
async def slot() -> AsyncIterator[tuple[Path, list[FromWorker], list[int]]]:
    """(socket of a slot whose worker is awaited, what it was heard to say, how often it ended)."""
    said: list[FromWorker] = []
    ended: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        workers = Workers(
            NodeId("node"),
            "127.0.0.1",
            Path(folder),
            JOB,
            b"key",
            None,
            lambda _, message: said.append(message),
            lambda index, *_: ended.append(index),
        )
        await workers.open(1)
        try:
            yield Path(folder) / "slot-0.sock", said, ended
        finally:
            await workers.close()


@FUZZ
@given(messages=st.lists(MESSAGES, min_size=1, max_size=4))
def test_a_workers_socket_takes_no_nonsense_for_a_worker(messages: list[bytes]) -> None:
    async def work() -> None:
        async with slot() as (path, said, _):
            for data in messages:
                await send(lambda: asyncio.open_unix_connection(path), data)
            assert not said

    run(work())


@FUZZ
@given(data=MESSAGES)
def test_a_worker_that_hears_nonsense_from_its_agent_ends(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    urgent: list[Stop | Exit] = []
    with theirs:
        channel = Channel(ours, urgent.append, lambda _: None)
        theirs.sendall(frame(encode_message(Stop(generation=3, abort=True))) + data)
        theirs.shutdown(socket.SHUT_WR)
        channel.start()
        assert channel.inbox.get(timeout=10) == Stop(generation=3, abort=True)
        assert isinstance(channel.inbox.get(timeout=10), Exit)
        assert isinstance(urgent[-1], Exit)
    ours.close()


@FUZZ
@given(data=st.one_of(BYTES, JSON.map(lambda value: json.dumps(value).encode() + b"\n"), st.just(b"x" * 100_000)))
def test_an_agent_whose_zygote_talks_nonsense_lets_go_of_it(data: bytes) -> None:
    async def work() -> None:
        heard: list[tuple[int, int]] = []
        zygote = ForkServerProcess("zygote", Command(module="none"), *[lambda *event: heard.append(event)] * 3)
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            reading = asyncio.create_task(zygote._read(reader, writer))
            theirs.setblocking(True)
            await asyncio.to_thread(theirs.sendall, data)
            theirs.shutdown(socket.SHUT_WR)
            await asyncio.wait_for(reading, 10)
            assert writer.is_closing()
            with suppress(OSError):
                await writer.wait_closed()
        assert not heard

    run(work())


@pytest.mark.slow
def test_a_zygote_forks_nothing_for_nonsense(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-m", "holdfast.worker.zygote", "--fd", str(theirs.fileno()), "--node", "n"]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, env={**os.environ})
        theirs.close()
        for line in (b"", b"\xff\xfe", b"{}", b'{"v":1,"body":{}}', b'{"v":2,"body":{}}', b"[" * 5000, b"x" * 70_000):
            ours.sendall(line + b"\n")
        ours.settimeout(1.0)
        with pytest.raises(TimeoutError):  # nothing was spawned, and it still listens
            ours.recv(1)
        assert process.poll() is None
        ours.shutdown(socket.SHUT_WR)
        told = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 0
    assert told.count('"event": "zygote.malformed"') == 7


def listening() -> list[int]:
    """Ports that this process listens on at the loopback address, gloo's among them, which Python is not told of."""
    found = []
    for fd in open_sockets():
        duplicate = duplicated(fd)
        if duplicate is None:
            continue
        with duplicate, suppress(OSError):
            if duplicate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                host, number, *_ = duplicate.getsockname()
                found += [number] if host == "127.0.0.1" else []
    return found


def test_random_bytes_at_a_workers_ports_do_not_disturb_a_group_that_is_formed() -> None:
    """The c10d store's port and gloo's."""
    before = set(listening())
    store = serve_store("127.0.0.1", 20)
    comms = [Comm(GlooBackend("127.0.0.1"), "127.0.0.1", store.port, 1, b"key", Pulse(None)) for _ in range(2)]

    def together(act: Callable[[int], None]) -> None:
        for done in [pool.submit(act, rank) for rank in range(2)]:
            done.result(30)

    def add(rank: int) -> None:
        tensor = torch.ones(10)
        comms[rank].all_reduce(WORLD, tensor)
        assert torch.equal(tensor, torch.full((10,), 2.0))

    with ThreadPoolExecutor(2) as pool:
        together(lambda rank: comms[rank].form([GroupSpec(name=WORLD, rank=rank, size=2)]))
        ports = sorted(set(listening()) - before)
        assert store.port in ports
        assert len(ports) == 3

        @FUZZ
        @given(data=st.one_of(BYTES, st.integers(0, 20).map(lambda number: number.to_bytes(8, "little") + b"more")))
        def fuzz(data: bytes) -> None:
            for number in ports:
                with suppress(OSError), socket.create_connection(("127.0.0.1", number), timeout=5) as connection:
                    connection.sendall(data)
            together(add)

        fuzz()
        for comm in comms:
            comm.close()

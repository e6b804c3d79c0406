"""What strangers send to the embedded store: their connection ends, and no other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import pytest_asyncio

from holdfast.stores.embedded import EmbeddedServer, EmbeddedStore
from holdfast.stores.wire import FRAME_BYTES_MAX, encode_frame, prove, read_frame

pytestmark = pytest.mark.asyncio

WITHIN_S = 20.0


@pytest_asyncio.fixture
async def server() -> AsyncIterator[EmbeddedServer]:
    server = EmbeddedServer()
    await server.start()
    yield server
    await server.close()


@pytest_asyncio.fixture
async def store(server: EmbeddedServer) -> AsyncIterator[EmbeddedStore]:
    store = EmbeddedStore(server.host, server.port)
    yield store
    await store.close()


async def greeted(port: int, *, hello: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    greeting = await read_frame(reader)
    assert greeting is not None
    if hello:
        proof = prove(b"", str(greeting["nonce"]))
        writer.write(encode_frame({"id": 0, "settled": 0, "method": "hello", "args": ["me", proof]}))
        assert await read_frame(reader) is not None
    return reader, writer


def request(method: str, *args: object) -> bytes:
    return encode_frame({"id": 1, "settled": 1, "method": method, "args": args})


def framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


MALFORMED = {
    "http": b"GET / HTTP/1.1\r\nHost: store\r\n\r\n",
    "too long": (FRAME_BYTES_MAX + 1).to_bytes(4, "big"),
    "empty": framed(b""),
    "not json": framed(b"\x80\x04}q\x00."),
    "too deep": framed(b"[" * 3000),
    "not an object": framed(b"[1]"),
    "no version": framed(b'{"id":1}'),
    "another version": framed(b'{"v":2,"id":1,"settled":1,"method":"get","args":["a"]}'),
    "no arguments": encode_frame({"id": 1, "method": "get"}),
    "no such method": request("exec", "a"),
    "wrong arguments": request("get", 1),
    "not base64": request("put", "a", "!", 0),
    "wrong operation": request("transact", [], [["steal", "a"]], []),
    "wrong poll": request("poll", "a", "b", "c"),
}


@pytest.mark.parametrize("hello", [False, True], ids=["stranger", "client"])
@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_frame_ends_its_connection_and_no_other(
    server: EmbeddedServer, store: EmbeddedStore, sent: bytes, hello: bool, caplog: pytest.LogCaptureFixture
) -> None:
    start = await store.put("a", b"1")
    reader, writer = await greeted(server.port, hello=hello)
    writer.write(sent)
    with suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), WITHIN_S) == b""
    writer.close()
    assert "store.malformed_frame" in caplog.messages
    assert await store.put("a", b"2") == start + 1


async def test_a_frame_cut_short_ends_its_connection_and_no_other(server: EmbeddedServer, store: EmbeddedStore) -> None:
    _, writer = await greeted(server.port, hello=True)
    writer.write(request("put", "a", "MQ==", 0)[:-3])
    writer.close()
    await writer.wait_closed()
    assert await store.get("a") is None

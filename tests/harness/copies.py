"""Nodes that copy snapshots to each other over real sockets, without the rest of an agent."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

from holdfast.agent.blob_client import BlobClient, PeerAddress, Waits
from holdfast.agent.blob_serving import Serving, ServingLimits
from holdfast.agent.contact import ContactPoint
from holdfast.agent.credentials import Credentials
from holdfast.agent.http import HttpPort, Listening
from holdfast.agent.offers import Version
from holdfast.agent.peers import Peers
from holdfast.agent.pulling import Patience, Puller
from holdfast.agent.tls import TlsFiles
from holdfast.model.ids import NodeId
from holdfast_checkpoint.digest import digest_of
from holdfast_checkpoint.header import LENGTH
from holdfast_checkpoint.ram import Copy, RamTier

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
                        raise ConnectionResetError(f"connection {mine} is cut")
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
                writer.close()
                await writer.wait_closed()  # what was written has gone out; only then does the other see an end
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


async def pull(node: Node, peer: PeerAddress, layer: int, version: Version, digest_from: Node) -> bytes:
    digest = digest_from.ram.find(layer, *version)[0].digest
    memory = bytearray(digest.size)
    await node.client.pull(peer, layer, version, digest, memoryview(memory))
    return bytes(memory)

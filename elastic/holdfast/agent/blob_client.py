"""Blobs from peers: a signed request, a verified answer, and the bytes straight into memory of ours."""

import asyncio
import contextlib
import logging
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

from holdfast.agent.offers import Version, blob_target
from holdfast.agent.peers import Peers
from holdfast.agent.receiving import Expected, receive
from holdfast.stores.address import join_endpoint
from holdfast_checkpoint.digest import Digest
from holdfast_checkpoint.errors import StorageBusyError

log = logging.getLogger(__name__)
# A larger blob comes in parts, over as many connections: one alone keeps a core busy with copying and hashing.
_LANES, _PART_BYTES_MIN = 3, 32 << 20
_NICER = 10  # of 19: receiving and hashing leave the processor to training


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """How long a peer may take."""

    connect_s: float = 5.0
    stalled_s: float = 15.0  # without a byte; a peer that lets us wait for our turn says so before


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAddress:
    """Where `node`'s agent listens; `node` is for messages. `prefix`: of the paths, where it keeps what belongs to
    several apart."""

    node: str
    host: str
    port: int
    prefix: str = ""


@dataclass(slots=True, kw_only=True)
class _Wanted:
    """One blob, while it is pulled."""

    peer: PeerAddress
    layer: int
    version: Version
    digest: Digest
    memory: memoryview
    doubted: bool
    parts: list[range]  # that nobody has begun
    lanes: int = 0  # at work
    came: int = 0  # parts


class BlobClient:
    """Of one agent, for one purpose: copies made by the way, or (`urgent`) what somebody waits for. `at_once`
    connections are read from at a time, each by a thread; more wait for their turn."""

    def __init__(self, peers: Peers, *, urgent: bool = False, at_once: int = 16, waits: Waits | None = None) -> None:
        self._peers, self._urgent, self._waits = peers, urgent, waits if waits is not None else Waits()
        begin = None if urgent else _yield_to_training
        self._threads = ThreadPoolExecutor(at_once, "pull", initializer=begin)
        self._turns = asyncio.Semaphore(at_once)

    async def pull(
        self,
        peer: PeerAddress,
        layer: int,
        version: Version,
        digest: Digest,
        memory: memoryview,
        *,
        doubted: bool = False,
    ) -> None:
        """Fill `memory`, of the digest's size, with that blob. On return it is verified; after an error, or when this
        is cancelled, nobody writes to it any more. `doubted`: what came before was corrupt, the peer is to look first.

        Raises:
            CorruptError, NoCheckpointError, StorageBusyError, ProtocolError: as `receive`.
            OSError: no connection, it broke, or nothing came.
        """
        if memory.nbytes != digest.size:
            raise ValueError(f"memory has {memory.nbytes} bytes; should have the digest's {digest.size}")
        wanted = _Wanted(
            peer=peer,
            layer=layer,
            version=Version(*version),
            digest=digest,
            memory=memory,
            doubted=doubted,
            parts=_parts(digest),
        )
        try:
            async with asyncio.TaskGroup() as lanes:
                for number in range(len(wanted.parts)):
                    lanes.create_task(self._lane(wanted), name=f"pull-{peer.node}-{layer}-{number}")
        except ExceptionGroup as group:  # the others were cancelled because of the first
            raise group.exceptions[0] from group

    async def _lane(self, wanted: "_Wanted") -> None:
        """Part after part, beside other lanes. A peer that has no more streams for us leaves the rest to those."""
        wanted.lanes += 1
        try:
            while wanted.parts:
                part, came = wanted.parts.pop(), wanted.came
                try:
                    async with self._turns:
                        await self._pull_part(wanted, part)
                    wanted.came += 1
                except StorageBusyError:
                    wanted.parts.append(part)
                    if wanted.lanes > 1:
                        return
                    if wanted.came == came:
                        raise
        finally:
            wanted.lanes -= 1

    async def _pull_part(self, wanted: "_Wanted", part: range) -> None:
        connection = await self._connect(wanted.peer)
        try:
            await self._in_thread(connection, wanted, part)
        finally:
            connection.close()

    async def _in_thread(self, connection: socket.socket, wanted: "_Wanted", part: range) -> None:
        """Until the thread is done; if this is cancelled, the connection is cut off, and the thread then ends."""
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._threads, self._exchange, connection, wanted, part)
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            _cut_off(connection)
            while not work.done():
                # Cancelled once more: still nobody may have the memory before the thread has let go of it.
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([work])
            if not work.cancelled():
                work.exception()  # of no interest any more
            raise

    def _exchange(self, connection: socket.socket, wanted: "_Wanted", part: range) -> None:
        target = wanted.peer.prefix + blob_target(
            wanted.layer, wanted.version, part.start, part.stop, urgent=self._urgent, doubted=wanted.doubted
        )
        signature, peer = self._peers.credentials.sign("GET", target), wanted.peer

        def prove(proof: str, status: int, body: bytes) -> None:
            self._peers.credentials.verify_answer(proof, signature.nonce, status, body)

        head = [
            f"GET {target} HTTP/1.1",
            f"Host: {join_endpoint(peer.host, peer.port)}",
            f"Authorization: {signature.authorization}",
            "Connection: close",
        ]
        request = "\r\n".join([*head, "", ""]).encode()
        what = f"layer {wanted.layer}, step {wanted.version.step}, from {peer.node}"
        expected = Expected(what=what, digest=wanted.digest, start=part.start, stop=part.stop, prove=prove)
        context = self._peers.client_context
        if context is None:
            receive(connection, request, expected, wanted.memory, self._waits.stalled_s)
            return
        # A duplicate, since TLS takes the socket away from who gave it; shutting down either shuts down both.
        duplicate = connection.dup()
        duplicate.settimeout(self._waits.stalled_s)
        with duplicate, context.wrap_socket(duplicate, server_hostname=peer.host) as secured:
            receive(secured, request, expected, wanted.memory, self._waits.stalled_s)

    async def _connect(self, peer: PeerAddress) -> socket.socket:
        """Raises: OSError: at none of its addresses."""
        loop = asyncio.get_running_loop()
        error: OSError = ConnectionError(f"{peer.host}: has no address")
        async with asyncio.timeout(self._waits.connect_s):
            found = await loop.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
            for family, kind, protocol, _, address in found:
                connection = socket.socket(family, kind, protocol)
                try:
                    connection.setblocking(False)
                    await loop.sock_connect(connection, address)
                    return connection
                except OSError as failed:
                    connection.close()
                    error = failed
                except BaseException:
                    connection.close()
                    raise
        raise error

    def close(self) -> None:
        """Nothing is pulled any more; what was is finished or was cancelled."""
        self._threads.shutdown(wait=False)


def _parts(digest: Digest) -> list[range]:
    """Of whole chunks, about equal."""
    chunks = len(digest.chunks)
    count = max(1, min(_LANES, digest.size // _PART_BYTES_MIN, chunks))
    cuts = [digest.chunk_bytes * (chunks * part // count) for part in range(count)] + [digest.size]
    return [range(start, stop) for start, stop in pairwise(cuts)]


def _cut_off(connection: socket.socket) -> None:
    """Whoever waits for it, in whatever thread, waits no longer."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _yield_to_training() -> None:
    """Linux: of this thread alone."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICER)

"""How fast a copy of a snapshot is made at a peer, beside a plain socket that moves the same bytes in the same run.

    python benchmarks/harness/peer_copying.py [--bytes N] [--rounds N]

Two processes on loopback, memfd to memfd. The source process offers the blobs as an agent does, and on another port
writes the same memory to whoever connects. Each round moves all of it in each way, in an order drawn anew; medians
count. Peer copies are taken as urgent, as in a restore: by the way, they would be nicer to others than the socket is.
"""

import argparse
import asyncio
import json
import mmap
import os
import random
import resource
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.harness.processes import Child, wait_for
from holdfast.agent.blob_client import BlobClient, PeerAddress
from holdfast.agent.blob_serving import Serving, ServingLimits
from holdfast.agent.contact import ContactPoint
from holdfast.agent.credentials import Credentials
from holdfast.agent.http import HttpPort, Listening
from holdfast.agent.offers import Version
from holdfast.agent.peers import Peers
from holdfast_checkpoint.digest import Digest, digest_of
from holdfast_checkpoint.header import LENGTH
from holdfast_checkpoint.ram import RamTier

_HOST, _VERSION, _PIECE_BYTES = "127.0.0.1", Version(1, 1), 1 << 20
_SECRET = b"of this benchmark alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """All bytes, once. `cpu_s` is what this process, which receives, spent."""

    wall_s: float
    cpu_s: float


class _Memory:
    """A memfd; its pages are there once it has been filled."""

    def __init__(self, size: int) -> None:
        self.fd = os.memfd_create("benchmark")
        os.ftruncate(self.fd, size)
        self.map = mmap.mmap(self.fd, size)
        self.view = memoryview(self.map)

    def close(self) -> None:
        self.view.release()
        self.map.close()
        os.close(self.fd)


def measure(total_bytes: int = 1 << 30, blobs: int = 4, rounds: int = 7, seed: int = 0) -> dict[str, Any]:
    """GB/s of each way, and how the peer copy compares: `ratio` to a socket that is written to and read from,
    `ratio_to_sendfile` to one that is fed by sendfile and verifies nothing either.

    "peer_copy" and both sockets write to memory that has been written to before; "peer_copy_fresh" and "socket_fresh"
    to memory that the kernel has yet to find and clear.
    """
    size = total_bytes // blobs
    with tempfile.TemporaryDirectory() as folder:
        told, log = Path(folder) / "told.json", Path(folder) / "source.log"
        command = [sys.executable, __file__, "--serve", str(told), "--bytes", str(total_bytes), "--blobs", str(blobs)]
        with Child(command, log) as source:
            wait_for("the source", told.exists, source.check, 120.0)
            found = json.loads(told.read_text())
            digests = [Digest(**(body | {"chunks": tuple(body["chunks"])})) for body in found["digests"]]
            moves = asyncio.run(_measure(found["ports"], digests, size, rounds, seed))
    return _figures(moves, size * blobs)


async def _measure(
    ports: Mapping[str, int], digests: Sequence[Digest], size: int, rounds: int, seed: int
) -> Mapping[str, list[Move]]:
    client = BlobClient(Peers(Credentials(_SECRET, "benchmark")), urgent=True)
    source = PeerAddress(node="source", host=_HOST, port=ports["blobs"])
    warm = [_Memory(size) for _ in digests]

    async def pull(memories: Sequence[_Memory]) -> None:
        for layer, memory in enumerate(memories):
            await client.pull(source, layer, _VERSION, digests[layer], memory.view)

    async def read(way: str, memories: Sequence[_Memory]) -> None:
        await asyncio.to_thread(_read_plain, ports[way], memories)

    def fresh(move: Callable[[Sequence[_Memory]], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        async def moved() -> None:
            memories = [_Memory(size) for _ in digests]
            await move(memories)
            for memory in memories:
                memory.close()

        return moved

    ways: dict[str, Callable[[], Awaitable[None]]] = {
        "peer_copy": lambda: pull(warm),
        "socket": lambda: read("socket", warm),
        "sendfile": lambda: read("sendfile", warm),
        "peer_copy_fresh": fresh(pull),
        "socket_fresh": fresh(lambda memories: read("socket", memories)),
    }
    try:
        return await _in_turns(ways, rounds, seed)
    finally:
        client.close()
        for memory in warm:
            memory.close()


async def _in_turns(
    ways: Mapping[str, Callable[[], Awaitable[None]]], rounds: int, seed: int
) -> Mapping[str, list[Move]]:
    """The first round, which warms up, does not count."""
    draw, order = random.Random(seed), list(ways)
    moves: dict[str, list[Move]] = {way: [] for way in order}
    for turn in range(rounds + 1):
        draw.shuffle(order)
        for way in order:
            begun_s, cpu_begun_s = time.perf_counter(), time.process_time()
            await ways[way]()
            if turn > 0:
                move = Move(wall_s=time.perf_counter() - begun_s, cpu_s=time.process_time() - cpu_begun_s)
                moves[way].append(move)
    return moves


def _read_plain(port: int, memories: Sequence[_Memory]) -> None:
    with socket.create_connection((_HOST, port)) as connection:
        for memory in memories:
            came = 0
            while came < len(memory.view):
                with memory.view[came : came + _PIECE_BYTES] as view:
                    count = connection.recv_into(view)
                if count == 0:
                    raise ConnectionResetError("the source is gone")
                came += count


def _figures(moves: Mapping[str, list[Move]], total: int) -> dict[str, Any]:
    wall_s = {way: statistics.median(move.wall_s for move in made) for way, made in moves.items()}
    return {
        "bytes": total,
        "gb_s": {way: round(total / seconds / 1e9, 2) for way, seconds in wall_s.items()},
        "best_gb_s": {way: round(total / min(m.wall_s for m in made) / 1e9, 2) for way, made in moves.items()},
        "receiver_cpu_s_per_gb": {
            way: round(statistics.median(move.cpu_s for move in made) / total * 1e9, 3) for way, made in moves.items()
        },
        "ratio": round(wall_s["socket"] / wall_s["peer_copy"], 3),
        "ratio_to_sendfile": round(wall_s["sendfile"] / wall_s["peer_copy"], 3),
        "ratio_fresh": round(wall_s["socket_fresh"] / wall_s["peer_copy_fresh"], 3),
        "receiver_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


async def _serve(told: Path, total_bytes: int, blobs: int) -> None:
    """The source: for ever."""
    memories, ram = [_Memory(total_bytes // blobs) for _ in range(blobs)], RamTier()
    digests = []
    for layer, memory in enumerate(memories):
        _fill(memory)
        digests.append(digest_of(memory.view))
        ram.adopt("own:0", layer, *_VERSION, f"/proc/self/fd/{memory.fd}", digests[-1])
    serving = Serving(ram, ServingLimits(), lambda *said: None, lambda copy: None)
    port = HttpPort(
        Listening(host=_HOST),
        Peers(Credentials(_SECRET, "benchmark")),
        dict,
        dict,
        ContactPoint(lambda _: None),
        for_peers=serving.routes(),
    )
    await port.open()
    ports = {"blobs": port.port, "socket": _listen(memories, _write), "sendfile": _listen(memories, _send_file)}
    partial = told.with_suffix(".partial")
    partial.write_text(json.dumps({"ports": ports, "digests": [asdict(digest) for digest in digests]}))
    partial.rename(told)
    await asyncio.Event().wait()


def _fill(memory: _Memory) -> None:
    block = os.urandom(1 << 20)
    for start in range(0, len(memory.view), len(block)):
        piece = memory.view[start : start + len(block)]
        piece[:] = block[: len(piece)]
    memory.view[: LENGTH.size] = LENGTH.pack(len(memory.view))


def _listen(memories: Sequence[_Memory], send: Callable[[socket.socket, _Memory], None]) -> int:
    listening = socket.create_server((_HOST, 0))

    def serve() -> None:
        while True:
            connection, _ = listening.accept()
            with connection:
                for memory in memories:
                    send(connection, memory)

    threading.Thread(target=serve, daemon=True).start()
    port: int = listening.getsockname()[1]
    return port


def _write(connection: socket.socket, memory: _Memory) -> None:
    for start in range(0, len(memory.view), _PIECE_BYTES):
        connection.sendall(memory.view[start : start + _PIECE_BYTES])


def _send_file(connection: socket.socket, memory: _Memory) -> None:
    sent, size = 0, len(memory.view)
    while sent < size:
        sent += os.sendfile(connection.fileno(), memory.fd, sent, size - sent)


def main() -> None:
    parser = argparse.ArgumentParser(description="Peer copies beside a plain socket.")
    parser.add_argument("--bytes", type=int, default=1 << 30)
    parser.add_argument("--blobs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", type=Path, help="(for itself) be the source, and say there where")
    arguments = parser.parse_args()
    if arguments.serve is not None:
        asyncio.run(_serve(arguments.serve, arguments.bytes, arguments.blobs))
    print(json.dumps(measure(arguments.bytes, arguments.blobs, arguments.rounds), indent=1))


if __name__ == "__main__":
    main()

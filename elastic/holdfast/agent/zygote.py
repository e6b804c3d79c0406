"""The agent's side of the zygote: starts it, asks it to fork, hears of its children's ends."""

import asyncio
import json
import logging
import socket
import sys
from collections.abc import Callable

from holdfast.model.ids import NodeId

log = logging.getLogger(__name__)


class ZygoteProcess:
    """Started again by itself if it ends while the agent lives; its workers die with it (the kernel sees to that)."""

    def __init__(self, node: NodeId, on_spawned: Callable[[int, int], None], on_exited: Callable[[int, int], None]):
        """`on_spawned(slot index, pid)`, `on_exited(pid, status)`."""
        self._node, self._on_spawned, self._on_exited = node, on_spawned, on_exited
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    async def fork(self, order: bytes) -> None:
        """Ask for a worker: one line, an encoded WorkerOrder."""
        async with self._starting:
            if self._writer is None or self._writer.is_closing():
                await self._launch()
        assert self._writer is not None
        self._writer.write(order + b"\n")
        await self._writer.drain()

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        if self._writer is not None:
            self._writer.close()
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _launch(self) -> None:
        ours, theirs = socket.socketpair()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "holdfast.worker.zygote", "--fd", str(theirs.fileno()), "--node", self._node),
            pass_fds=[theirs.fileno()],
            stdin=asyncio.subprocess.DEVNULL,
        )
        theirs.close()
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._reading = asyncio.create_task(self._read(reader, self._writer), name="zygote")

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                match json.loads(line):
                    case {"spawned": int(pid), "slot": int(slot)}:
                        self._on_spawned(slot, pid)
                    case {"exited": int(pid), "status": int(status)}:
                        self._on_exited(pid, status)
                    case other:
                        raise ValueError(f"unexpected event {repr(other)[:200]}")
        except (ValueError, RecursionError, ConnectionError) as error:
            log.error("zygote.malformed", extra={"node": self._node, "error": str(error)})
        log.warning("zygote.ended", extra={"node": self._node})
        writer.close()  # ends the zygote, and its workers with it

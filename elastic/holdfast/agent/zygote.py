"""The agent's side of the zygote: starts it, asks it to fork, hears of its children's ends and of its own."""

import asyncio
import contextlib
import json
import logging
import os
import socket
import sys
from collections.abc import Callable

from holdfast.model.ids import NodeId
from holdfast_checkpoint.tunables import with_streamed_copies

log = logging.getLogger(__name__)
# A machine that has no memory or processes left may have some later.
_AGAIN_S = 2.0
# Between the end of a zygote's socket and its own; then it is killed.
_END_S = 2.0


class ZygoteProcess:
    """Started again by the next order if it ended; its workers die with it (the kernel sees to that)."""

    def __init__(
        self,
        node: NodeId,
        on_spawned: Callable[[int, int], None],
        on_exited: Callable[[int, int], None],
        on_lost: Callable[[int, int, int], None],
    ) -> None:
        """`on_spawned(slot index, pid)`, `on_exited(pid, status)`, and, once the zygote itself ended, for each of its
        orders `on_lost(slot index, number of the order, its status)`."""
        self._node, self._on_spawned, self._on_exited, self._on_lost = node, on_spawned, on_exited, on_lost
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._orders: dict[int, tuple[int, bytes]] = {}  # the last one of each slot that this zygote was given

    async def fork(self, index: int, number: int, order: bytes) -> None:
        """Ask for a worker: one line, an encoded WorkerOrder. `number` tells this order from others of that slot."""
        async with self._starting:
            while self._writer is None or self._writer.is_closing():
                try:
                    await self._launch()
                except OSError as error:
                    log.error("zygote.not_started", extra={"node": self._node, "error": str(error)})
                    await asyncio.sleep(_AGAIN_S)
            self._orders[index] = (number, order)
            writer = self._writer
        with contextlib.suppress(ConnectionError):  # `_read` tells of its end
            writer.write(order + b"\n")
            await writer.drain()

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        if self._writer is not None:
            self._writer.close()
        await self._end(0.0)

    async def _end(self, given_s: float) -> int:
        """The status of the process, which has so long to end by itself."""
        process = self._process
        if process is None:
            return 0
        try:
            return await asyncio.wait_for(process.wait(), given_s)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            return await process.wait()

    async def _launch(self) -> None:
        """Raises: OSError: no process can be started."""
        ours, theirs = socket.socketpair()
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "holdfast.worker.zygote", "--fd", str(theirs.fileno()), "--node", self._node),
                pass_fds=[theirs.fileno()],
                env=with_streamed_copies(os.environ),
                stdin=asyncio.subprocess.DEVNULL,
            )
        except OSError:
            ours.close()
            raise
        finally:
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
                    case {"not_forked": int(slot), "error": str(error)}:
                        log.error("zygote.not_forked", extra={"slot": f"{self._node}/{slot}", "error": error})
                        asyncio.get_running_loop().call_later(_AGAIN_S, self._ask_again, slot, writer)
                    case other:
                        raise ValueError(f"unexpected event {repr(other)[:200]}")
        except (ValueError, RecursionError, ConnectionError) as error:
            log.error("zygote.malformed", extra={"node": self._node, "error": str(error)})
        async with self._starting:  # an order that comes now is for the next zygote
            writer.close()  # ends this one, and its workers with it
            status = await self._end(_END_S)
            orders, self._orders = self._orders, {}
        log.error("zygote.ended", extra={"node": self._node, "status": status})
        for index, (number, _) in orders.items():
            self._on_lost(index, number, status)

    def _ask_again(self, index: int, writer: asyncio.StreamWriter) -> None:
        held = self._orders.get(index)
        if held is not None and not writer.is_closing():
            writer.write(held[1] + b"\n")

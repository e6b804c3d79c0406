"""A fork server from outside (inside: worker/forking.py): it is started, asked to fork, heard of its children's ends
and of its own."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from holdfast_checkpoint.tunables import with_streamed_copies

log = logging.getLogger(__name__)
# A machine that has no memory or processes left may have some later.
_AGAIN_S = 2.0
# Between the end of a fork server's socket and its own; then it is killed.
_END_S = 2.0


class Child(Protocol):
    """A child of this process that nobody else waits for; of use on several threads."""

    @property
    def pid(self) -> int: ...

    def kill(self) -> None:
        """No-op once it was waited for."""
        ...

    def wait(self) -> int:
        """Its status, negative for a signal."""
        ...


@dataclass(slots=True)
class ForkedChild:
    """One that this process did not start, since it was forked before what runs here now."""

    pid: int
    _status: int | None = None
    _waiting: threading.Lock = field(default_factory=threading.Lock)

    def kill(self) -> None:
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        with self._waiting:
            if self._status is None:
                self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            return self._status


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A fork server that runs, and the socket through which it is spoken to."""

    process: Child
    connection: socket.socket

    def close(self) -> None:
        """End it, and its children with it; no-op if it has ended."""
        self.connection.close()
        self.process.kill()
        self.process.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """Starts a fork server: python -m `module` --fd N `arguments`; `environment` None: as it is here."""

    module: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = field(default=None, repr=False)
    own_session: bool = False  # out of reach of the terminal's Ctrl-C

    def start(self) -> RunningServer:
        """Raises: OSError: no process can be started."""
        ours, theirs = socket.socketpair()
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", self.module, "--fd", str(theirs.fileno()), *self.arguments],
                pass_fds=[theirs.fileno()],
                env=with_streamed_copies(os.environ if self.environment is None else self.environment),
                stdin=subprocess.DEVNULL,
                start_new_session=self.own_session,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return RunningServer(process, ours)


class ForkServerProcess:
    """Started again by the next order if it ended; its children die with it (the kernel sees to that)."""

    def __init__(
        self,
        name: str,
        command: Command,
        on_spawned: Callable[[int, int], None],
        on_exited: Callable[[int, int], None],
        on_lost: Callable[[int, int, int], None],
        *,
        running: RunningServer | None = None,
    ) -> None:
        """`on_spawned(number, pid)`, `on_exited(pid, status)`, and, once the server itself ended, for the last order of
        each number `on_lost(number, count, its status)`. `name`: what events in the log begin with. `running`: the
        first one, which runs already."""
        self._name, self._command, self._running = name, command, running
        self._on_spawned, self._on_exited, self._on_lost = on_spawned, on_exited, on_lost
        self._ended: asyncio.Future[int] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._orders: dict[int, tuple[int, bytes]] = {}  # the last one of each number that this server was given

    async def fork(self, number: int, count: int, order: bytes) -> None:
        """Ask for a child: one line, an encoded order of that number. `count` tells this order from others of it."""
        async with self._starting:
            while self._writer is None or self._writer.is_closing():
                try:
                    await self._launch()
                except OSError as error:
                    log.error("%s.not_started", self._name, extra={"error": str(error)})
                    await asyncio.sleep(_AGAIN_S)
            self._orders[number] = (count, order)
            writer = self._writer
        with contextlib.suppress(ConnectionError):  # `_read` tells of its end
            writer.write(order + b"\n")
            await writer.drain()

    async def close(self) -> None:
        """Its end and its children's. One that runs already and was never asked for anything ends as well."""
        if self._reading is not None:
            self._reading.cancel()
        if self._writer is not None:
            self._writer.close()
        if self._ended is None and self._running is not None:
            self._running.close()
        await self._end(0.0)

    async def _end(self, given_s: float) -> int:
        """The status of the process, which has so long to end by itself."""
        if self._ended is None or self._running is None:
            return 0
        try:
            return await asyncio.wait_for(asyncio.shield(self._ended), given_s)
        except TimeoutError:
            self._running.process.kill()
            return await self._ended

    async def _launch(self) -> None:
        """Raises: OSError: no process can be started."""
        if self._running is None or self._ended is not None:
            self._running = self._command.start()
        try:
            self._ended = _end_of(self._running.process)
        except RuntimeError as error:  # no thread can be started
            self._running.close()
            self._running = None
            raise OSError(str(error)) from error
        reader, self._writer = await asyncio.open_connection(sock=self._running.connection)
        self._reading = asyncio.create_task(self._read(reader, self._writer), name=self._name)

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                match json.loads(line):
                    case {"spawned": int(pid), "number": int(number)}:
                        self._on_spawned(number, pid)
                    case {"exited": int(pid), "status": int(status)}:
                        self._on_exited(pid, status)
                    case {"not_forked": int(number), "error": str(error)}:
                        log.error("%s.not_forked", self._name, extra={"number": number, "error": error})
                        asyncio.get_running_loop().call_later(_AGAIN_S, self._ask_again, number, writer)
                    case other:
                        raise ValueError(f"unexpected event {repr(other)[:200]}")
        except (ValueError, RecursionError, ConnectionError) as error:
            log.error("%s.malformed", self._name, extra={"error": str(error)})
        except Exception:  # of whoever was told: without a reader the children's ends would be waited for for ever
            log.exception("%s.broken", self._name)
        async with self._starting:  # an order that comes now is for the next one
            writer.close()  # ends this one, and its children with it
            status = await self._end(_END_S)
            orders, self._orders = self._orders, {}
        log.error("%s.ended", self._name, extra={"status": status})
        for number, (count, _) in orders.items():
            self._on_lost(number, count, status)

    def _ask_again(self, number: int, writer: asyncio.StreamWriter) -> None:
        held = self._orders.get(number)
        if held is not None and not writer.is_closing():
            writer.write(held[1] + b"\n")


def _end_of(child: Child) -> "asyncio.Future[int]":
    """Its status, once it has ended. On a thread, as asyncio does it where there may be no pidfd."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def settle(status: int) -> None:
        if not ended.done():
            ended.set_result(status)

    def wait() -> None:
        status = child.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            loop.call_soon_threadsafe(settle, status)

    threading.Thread(target=wait, name=f"wait-{child.pid}", daemon=True).start()
    return ended

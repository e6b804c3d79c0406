"""A TCP proxy in front of a server, whose replies can be lost and whose connections can be cut."""

import asyncio
from contextlib import suppress

_WITHIN_S = 20.0


class Link:
    """`start` gives the port to connect to."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._loses_replies = False
        self._lost_reply = asyncio.Event()

    async def start(self) -> int:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    def lose_replies(self) -> None:
        """From now on: requests arrive, and nothing comes back."""
        self._loses_replies = True
        self._lost_reply.clear()

    async def lost_reply(self) -> None:
        await asyncio.wait_for(self._lost_reply.wait(), _WITHIN_S)

    def heal(self) -> None:
        self._loses_replies = False

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def close(self) -> None:
        self._listener.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers += [writer, server_writer]
        await asyncio.gather(self._pump(reader, server_writer), self._pump(server_reader, writer, replies=True))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool = False) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if replies and self._loses_replies:
                    self._lost_reply.set()
                else:
                    writer.write(data)
        writer.close()

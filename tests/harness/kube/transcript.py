"""What a person at a terminal types and sees while a test tells its story."""

import asyncio
import shlex
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from harness.kube.tools import Tool


class Transcript:
    """Lines, in the order in which they came."""

    def __init__(self, kubectl: Tool) -> None:
        self._kubectl, self._begun_s = kubectl, time.monotonic()
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        """What happens to the cluster without anybody typing."""
        self.lines += ["", f"# {text}"]

    async def kubectl(self, *arguments: str, told: str = "") -> str:
        self.lines += ["", f"$ {shlex.join(('kubectl', *arguments))}"]
        output = await self._kubectl(*arguments, told=told)
        self.lines += output.splitlines()
        return output

    @asynccontextmanager
    async def watching(self, *arguments: str) -> AsyncIterator[None]:
        """A second terminal; each of its lines has the seconds since the story began before it."""
        self.lines += ["", f"$ {shlex.join(('kubectl', *arguments))} &"]
        process = await self._kubectl.start(*arguments)
        reading = asyncio.create_task(self._read(process))
        try:
            yield
        finally:
            process.kill()
            await process.wait()
            await reading

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.lines.append(f"{time.monotonic() - self._begun_s:5.1f} s | {line.decode().rstrip()}")

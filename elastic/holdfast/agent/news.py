"""Tells all who wait that something is new."""

import asyncio


class News:
    """An event for whoever waits now; who comes later waits for the next one."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    async def wait(self) -> None:
        await self._event.wait()

    def tell(self) -> None:
        event, self._event = self._event, asyncio.Event()
        event.set()

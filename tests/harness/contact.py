"""A contact between two agents, as the one that is asked sees it."""

import asyncio

from aiohttp import web

from holdfast.agent.contact import ContactPoint
from holdfast.model.ids import NodeId


class Led(ContactPoint):
    """Says when a contact begins, when it ends, and with whom it was."""

    def __init__(self) -> None:
        self.begun, self.lost = asyncio.Event(), asyncio.Event()
        self.with_node: NodeId | None = None
        super().__init__(self._end)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.begun.set()
        return await super().handle(request)

    def _end(self, node: NodeId) -> None:
        self.with_node = node
        self.lost.set()

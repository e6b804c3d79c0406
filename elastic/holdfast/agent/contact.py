"""A connection from every agent to the leading one, silent: the kernel closes it in the moment either of them dies.

It only makes a loss known sooner. A broken connection leads to a probe, never to a verdict by itself.
"""

import asyncio
import logging
from collections.abc import Callable

import aiohttp
from aiohttp import web

from holdfast.agent.peers import Peers
from holdfast.errors import ProtocolError
from holdfast.model.ids import NodeId

log = logging.getLogger(__name__)
PATH = "/contact"


class ContactPoint:
    """The leading agent's side: an HTTP handler that never answers to the end."""

    def __init__(self, on_lost: Callable[[NodeId], None]) -> None:
        self._on_lost = on_lost

    async def handle(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            # Ends by cancellation, when the peer is gone or this agent closes its port.
            await asyncio.Event().wait()
        finally:
            self._on_lost(NodeId(request.query.get("node", "")))
        return response


async def hold_contact(peers: Peers, host: str, port: int, node: NodeId, begin_s: float) -> None:
    """Returns when the connection to the agent at host:port is gone, or cannot be made within `begin_s`."""
    try:
        await peers.hold(host, port, PATH, {"node": node}, begin_s)
    except (aiohttp.ClientError, ProtocolError, OSError, ValueError) as error:
        log.info("contact.lost", extra={"address": f"{host}:{port}", "error": repr(error)})

"""A connection from every agent to the leading one, silent: the kernel closes it in the moment either of them dies.

It only makes a loss known sooner. A broken connection leads to a probe, never to a verdict by itself. Where a machine
or the network between vanishes nobody closes it: both kernels ask, and give it up.
"""

import asyncio
import logging
import socket
from collections.abc import Callable

import aiohttp
from aiohttp import web

from holdfast.agent.peers import Peers
from holdfast.errors import ProtocolError
from holdfast.model.ids import NodeId

log = logging.getLogger(__name__)
PATH = "/contact"
# After so long a silence the kernel asks, every so often, so many times in vain; and how long bytes go unanswered.
_IDLE_S, _EVERY_S, _TIMES, _UNANSWERED_MS = 5, 2, 3, 10_000


class ContactPoint:
    """The leading agent's side: an HTTP handler that never answers to the end."""

    def __init__(self, on_lost: Callable[[NodeId], None]) -> None:
        self._on_lost = on_lost

    async def handle(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if request.transport is not None:
            watch_over(request.transport)
        try:
            # Ends by cancellation, when the peer is gone or this agent closes its port.
            await asyncio.Event().wait()
        finally:
            self._on_lost(NodeId(request.query.get("node", "")))
        return response


def watch_over(transport: asyncio.BaseTransport) -> None:
    """Have the kernel end a TCP connection whose other end is gone without a word, within some ten seconds."""
    connection = transport.get_extra_info("socket")
    if connection is None:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _EVERY_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _TIMES)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNANSWERED_MS)


async def hold_contact(peers: Peers, host: str, port: int, node: NodeId, begin_s: float) -> None:
    """Returns when the connection to the agent at host:port is gone, or cannot be made within `begin_s`."""
    try:
        await peers.hold(host, port, PATH, {"node": node}, begin_s, watch_over)
    except (aiohttp.ClientError, ProtocolError, OSError, ValueError) as error:
        log.info("contact.lost", extra={"address": f"{host}:{port}", "error": repr(error)})

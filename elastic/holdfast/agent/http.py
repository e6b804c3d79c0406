"""The agent's HTTP port: /alive for probes, /contact for peers, /status for people, /metrics for Prometheus.

Rule: nothing is told to who does not prove to know the job's secret. Peers sign (`credentials`); people and Prometheus,
who may only read, bring a bearer token that is derived from it. What is refused is logged.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from holdfast.agent.contact import PATH, ContactPoint
from holdfast.agent.credentials import PROOF_HEADER
from holdfast.agent.peers import Peers
from holdfast.errors import ProtocolError, UserError

log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# No request has a body, and none needs long headers.
_BODY_BYTES_MAX = 4 << 10
_LINE_BYTES_MAX = 4 << 10
_NONCE = web.RequestKey("nonce", str)
# What a handler signs in the place of a body that it sends piece by piece.
STANDS_FOR_BODY = web.RequestKey("stands_for_body", bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where the port is bound; `port` 0: any that is free."""

    host: str
    port: int = 0
    open_metrics: bool = False  # anybody may read /metrics


class HttpPort:
    """Listens as long as the agent lives: a refused connection means the agent is dead."""

    def __init__(
        self,
        listening: Listening,
        peers: Peers,
        alive: Callable[[], dict[str, Any]],
        status: Callable[[], dict[str, Any]],
        contact: ContactPoint | None,
        metrics: Callable[[], bytes] = generate_latest,
        for_peers: Mapping[str, Handler] | None = None,
    ) -> None:
        """`contact`: None where nobody ever leads. `metrics` in Prometheus' text format; unless given, those of this
        process alone. `for_peers`: what else only peers may ask for, by path."""
        self._listening, self._peers = listening, peers
        application = web.Application(client_max_size=_BODY_BYTES_MAX)
        application.on_response_prepare.append(self._prove)
        add = application.router.add_get
        if contact is not None:
            add(PATH, self._for_peers(contact.handle), allow_head=False)
        add("/alive", self._for_peers(_answer(alive)), allow_head=False)
        add("/status", self._for_readers(_answer(status)), allow_head=False)
        measured = _answer_metrics(metrics)
        add("/metrics", measured if listening.open_metrics else self._for_readers(measured), allow_head=False)
        for path, handler in (for_peers or {}).items():
            add(path, self._for_peers(handler), allow_head=False)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=0.1,
            max_line_size=_LINE_BYTES_MAX,
            max_field_size=_LINE_BYTES_MAX,
        )
        self.port = 0

    async def open(self) -> None:
        """Raises: UserError: the address cannot be bound."""
        host, port = self._listening.host, self._listening.port
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port, ssl_context=self._peers.server_context).start()
        except OSError as error:
            await self._runner.cleanup()
            raise UserError(
                f"--address: {host} port {port} cannot be bound: {error.strerror or error}; should be an address of "
                "this machine and a port that is free"
            ) from error
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        await self._runner.cleanup()

    def _for_peers(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                await self._admit(request)
            except ProtocolError as error:
                return _refuse(request, error)
            return await handler(request)

        return guarded

    def _for_readers(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if self._peers.credentials.may_read(request.headers.get("Authorization", "")):
                return await handler(request)
            return await self._for_peers(handler)(request)

        return guarded

    async def _admit(self, request: web.Request) -> None:
        body = await request.read() if request.body_exists else b""
        authorization = request.headers.get("Authorization", "")
        request[_NONCE] = self._peers.credentials.verify(authorization, request.method, request.raw_path, body)

    async def _prove(self, request: web.Request, response: web.StreamResponse) -> None:
        """Sign what is answered to a peer; of an answer without end, only that it began, or what stands for it."""
        nonce = request.get(_NONCE)
        if nonce is not None:
            body = response.body if isinstance(response, web.Response) else request.get(STANDS_FOR_BODY, b"")
            data = body if isinstance(body, bytes) else b""
            response.headers[PROOF_HEADER] = self._peers.credentials.answer(nonce, response.status, data)


def _refuse(request: web.Request, error: ProtocolError) -> web.Response:
    log.warning("http.refused", extra={"peer": request.remote, "path": request.path[:100], "error": str(error)})
    return web.json_response({"error": str(error)}, status=401, headers={"WWW-Authenticate": "Bearer"})


def _answer(body: Callable[[], dict[str, Any]]) -> Handler:
    async def handle(_: web.Request) -> web.StreamResponse:
        return web.json_response(body())

    return handle


def _answer_metrics(body: Callable[[], bytes]) -> Handler:
    async def handle(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return handle

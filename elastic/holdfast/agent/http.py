"""The agent's HTTP port: /alive for probes, /contact for peers, /status for people, /metrics for Prometheus."""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from holdfast.agent.contact import PATH, ContactPoint


class HttpPort:
    """Listens as long as the agent lives: a refused connection means the agent is dead."""

    def __init__(
        self,
        host: str,
        alive: Callable[[], dict[str, Any]],
        status: Callable[[], dict[str, Any]],
        contact: ContactPoint,
    ) -> None:
        application = web.Application()
        application.router.add_get(PATH, contact.handle)
        application.router.add_get("/alive", _answer(alive))
        application.router.add_get("/status", _answer(status))
        application.router.add_get("/metrics", _metrics)
        self._runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        self._host = host
        self.port = 0

    async def open(self) -> None:
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        await self._runner.cleanup()


def _answer(body: Callable[[], dict[str, Any]]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(_: web.Request) -> web.Response:
        return web.json_response(body())

    return handle


async def _metrics(_: web.Request) -> web.Response:
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

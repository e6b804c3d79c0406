"""The operator's HTTP port: /healthz and /readyz for the kubelet, /metrics for Prometheus. Nothing secret is told."""

from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from holdfast.errors import UserError
from holdfast_operator.handlers.metrics import OperatorMetrics


class HealthPort:
    """`alive` and `ready` say in words what is amiss; "": nothing."""

    def __init__(
        self, host: str, port: int, metrics: OperatorMetrics, alive: Callable[[], str], ready: Callable[[], str]
    ) -> None:
        self._host, self._port, self._metrics = host, port, metrics
        application = web.Application()
        application.router.add_get("/healthz", _answer(alive))
        application.router.add_get("/readyz", _answer(ready))
        application.router.add_get("/metrics", self._tell)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        self.port = 0

    async def open(self) -> None:
        """Raises: UserError: the address cannot be bound."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise UserError(
                f"--host {self._host} --port {self._port}: cannot be bound: {error.strerror or error}; should be an "
                "address of this machine and a port that is free"
            ) from error
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _tell(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _answer(trouble: Callable[[], str]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(_: web.Request) -> web.StreamResponse:
        amiss = trouble()
        return web.Response(text=f"{amiss or 'ok'}\n", status=503 if amiss else 200)

    return handle

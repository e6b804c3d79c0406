"""What a cluster may ask an agent without its secret: /livez, whether it works, and /readyz, whether it takes part.

Answered on a thread of its own, so that an event loop that is stuck is told of, and not just silent. Nothing else is
told there, so that anybody may ask.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Protocol

from holdfast.errors import UserError

log = logging.getLogger(__name__)
_BEAT_S = 0.5
# Longer than anything that an event loop is held up by for a good reason.
_STUCK_S = 30.0
_REQUEST_S = 5.0


class Vital(Protocol):
    """An agent, as far as this is about it."""

    @property
    def is_ready(self) -> bool:
        """It has joined with warm workers, and does not leave."""

    @property
    def stuck(self) -> str:
        """Why it cannot go on without being started anew; empty where it can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """As the event loop left it last."""

    time_s: float
    ready: bool = False
    stuck: str = ""


class Health:
    """Open as long as the agent's process is there, also while it waits for its job."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pulse = Pulse(time_s=clock())
        self._server: ThreadingHTTPServer | None = None

    def open(self, host: str, port: int) -> int:
        """The port. Raises: UserError: it cannot be bound."""
        try:
            self._server = _Server((host, port), _handler(self))
        except OSError as error:
            raise UserError(f"--health {host}:{port}: cannot be bound: {error.strerror or error}") from error
        Thread(target=self._server.serve_forever, name="health", daemon=True).start()
        return int(self._server.server_address[1])

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    async def beat(self, vitals: Callable[[], Vital | None]) -> None:
        """For ever, on the event loop. `vitals`: None until there is an agent."""
        while True:
            vital = vitals()
            ready, stuck = (vital.is_ready, vital.stuck) if vital is not None else (False, "")
            self._pulse = Pulse(time_s=self._clock(), ready=ready, stuck=stuck)
            await asyncio.sleep(_BEAT_S)

    def answer(self, path: str) -> tuple[HTTPStatus, str]:
        """On any thread."""
        pulse = self._pulse
        behind_s = self._clock() - pulse.time_s
        stuck = f"the event loop has stood still for {behind_s:.0f} s" if behind_s > _STUCK_S else pulse.stuck
        if path == "/livez":
            return (HTTPStatus.SERVICE_UNAVAILABLE, stuck) if stuck else (HTTPStatus.OK, "ok")
        if path == "/readyz":
            is_ready = pulse.ready and not stuck
            return (HTTPStatus.OK, "ok") if is_ready else (HTTPStatus.SERVICE_UNAVAILABLE, stuck or "not taking part")
        return HTTPStatus.NOT_FOUND, "there are /livez and /readyz"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Of somebody who does not wait for the answer, mostly."""
        log.debug("health.broken", exc_info=True)


def _handler(health: Health) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _REQUEST_S
        server_version, sys_version = "holdfast", ""

        def do_GET(self) -> None:
            status, text = health.answer(self.path.partition("?")[0])
            body = f"{text}\n".encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            log.debug("health.asked", extra={"said": format % args})

    return Handler

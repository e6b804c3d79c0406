"""Asking another agent whether it lives."""

import json
import logging
from enum import StrEnum

import aiohttp

from holdfast.model.ids import WorkerId

log = logging.getLogger(__name__)


class Verdict(StrEnum):
    """REFUSED: nobody listens where the agent listened all its life: it is dead. SILENT: nothing is known."""

    ALIVE = "alive"
    REFUSED = "refused"
    SILENT = "silent"


async def probe(host: str, port: int, incarnation: str, timeout_s: float) -> tuple[Verdict, tuple[WorkerId, ...]]:
    """The verdict, and the live workers of an agent that answered. One that runs under another incarnation answers
    for itself, not for the one asked about: that one is dead."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"http://{host}:{port}/alive") as response,
        ):
            answer = await response.json()
    except aiohttp.ClientConnectorError as error:
        refused = isinstance(error.os_error, ConnectionRefusedError)
        return (Verdict.REFUSED if refused else Verdict.SILENT), ()
    except (TimeoutError, aiohttp.ClientError, json.JSONDecodeError, OSError) as error:
        log.info("probe.silent", extra={"address": f"{host}:{port}", "error": repr(error)})
        return Verdict.SILENT, ()
    if answer.get("incarnation") != incarnation:
        return Verdict.REFUSED, ()
    return Verdict.ALIVE, tuple(WorkerId(worker) for worker in answer.get("workers", ()))

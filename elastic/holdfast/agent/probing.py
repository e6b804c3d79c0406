"""Asking another agent whether it lives."""

import json
import logging
from enum import StrEnum

import aiohttp

from holdfast.agent.peers import Peers
from holdfast.errors import ProtocolError
from holdfast.model.ids import WorkerId

log = logging.getLogger(__name__)


class Verdict(StrEnum):
    """REFUSED: nobody listens where the agent listened all its life: it is dead. SILENT: nothing is known."""

    ALIVE = "alive"
    REFUSED = "refused"
    SILENT = "silent"


async def probe(
    peers: Peers, host: str, port: int, incarnation: str, timeout_s: float
) -> tuple[Verdict, tuple[WorkerId, ...]]:
    """The verdict, and the live workers of an agent that answered. One that runs under another incarnation answers
    for itself, not for the one asked about: that one is dead, unless its workers are among those that live. An answer
    that no agent of this job gave says nothing."""
    try:
        answer = json.loads(await peers.fetch(host, port, "/alive", timeout_s))
    except aiohttp.ClientConnectorError as error:
        refused = isinstance(error.os_error, ConnectionRefusedError)
        return (Verdict.REFUSED if refused else Verdict.SILENT), ()
    except (TimeoutError, aiohttp.ClientError, ProtocolError, ValueError, OSError) as error:
        log.info("probe.silent", extra={"address": f"{host}:{port}", "error": repr(error)})
        return Verdict.SILENT, ()
    match answer:
        case {"incarnation": str(answered), "workers": [*workers]}:
            if answered != incarnation:
                return Verdict.REFUSED, tuple(WorkerId(str(worker)) for worker in workers)
            return Verdict.ALIVE, tuple(WorkerId(str(worker)) for worker in workers)
    log.error("probe.malformed", extra={"address": f"{host}:{port}", "answer": repr(answer)[:200]})
    return Verdict.SILENT, ()

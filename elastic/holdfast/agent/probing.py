"""Asking another agent whether it lives."""

import errno
import json
import logging
from enum import StrEnum

import aiohttp

from holdfast.agent.peers import Peers
from holdfast.errors import ProtocolError
from holdfast.model.ids import WorkerId

log = logging.getLogger(__name__)


class Verdict(StrEnum):
    """REFUSED: nobody listens where the agent listened all its life: it is dead. SILENT: no answer, and so nothing is
    known. UNASKED: this machine had no means left to ask, which says nothing about the other."""

    ALIVE = "alive"
    REFUSED = "refused"
    SILENT = "silent"
    UNASKED = "unasked"


# Of this machine: files, memory, ports.
_LOCAL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})


async def probe(
    peers: Peers, host: str, port: int, incarnation: str, timeout_s: float
) -> tuple[Verdict, tuple[WorkerId, ...]]:
    """The verdict, and the live workers of an agent that answered. One that runs under another incarnation answers
    for itself, not for the one asked about: that one is dead, unless its workers are among those that live. An answer
    that no agent of this job gave says nothing."""
    try:
        answer = json.loads(await peers.fetch(host, port, "/alive", timeout_s))
    except OSError as error:  # also aiohttp's, of a connection that could not be made
        if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionRefusedError):
            return Verdict.REFUSED, ()
        verdict = Verdict.UNASKED if error.errno in _LOCAL else Verdict.SILENT
        log.info("probe.silent", extra={"address": f"{host}:{port}", "verdict": verdict, "error": repr(error)})
        return verdict, ()
    except (aiohttp.ClientError, ProtocolError, ValueError) as error:
        log.info("probe.silent", extra={"address": f"{host}:{port}", "error": repr(error)})
        return Verdict.SILENT, ()
    match answer:
        case {"incarnation": str(answered), "workers": [*workers]}:
            if answered != incarnation:
                return Verdict.REFUSED, tuple(WorkerId(str(worker)) for worker in workers)
            return Verdict.ALIVE, tuple(WorkerId(str(worker)) for worker in workers)
    log.error("probe.malformed", extra={"address": f"{host}:{port}", "answer": repr(answer)[:200]})
    return Verdict.SILENT, ()

"""Objects for the tests of the operator's shell, and how these wait."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from holdfast_operator.api.v1alpha1 import GROUP, KIND, VERSION
from holdfast_operator.api.v1alpha1.names import AGENT_CONTAINER, LABEL_JOB, LABEL_NODE
from holdfast_operator.handlers.client import Object
from holdfast_operator.handlers.errors import RefusedError

WITHIN_S = 20.0
_CONTAINER = {"name": AGENT_CONTAINER, "image": "holdfast"}


def pod(job: str, index: int, *, owner: Object | None = None, host: str = "") -> Object:
    metadata: dict[str, Any] = {
        "name": f"{job}-{index}",
        "labels": {LABEL_JOB: job, LABEL_NODE: str(index)},
        "ownerReferences": [owner] if owner is not None else [],
    }
    spec: dict[str, Any] = {"containers": [_CONTAINER]}
    if host:
        spec["nodeName"] = host
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def elastic_job(name: str, endpoint: tuple[str, int], **spec: Any) -> Object:
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "metadata": {"name": name},
        "spec": {
            "program": {"entry": "train:program"},
            "steps": 10,
            "nodes": {"max": 2},
            "rendezvous": {"endpoints": ["{}:{}".format(*endpoint)]},
            "template": {"spec": {"containers": [_CONTAINER]}},
            **spec,
        },
    }


async def until_done(work: Callable[[], Awaitable[object]], what: str) -> None:
    """Again and again, until the API server does it."""
    deadline_s = time.monotonic() + WITHIN_S
    while await _is_refused(work):
        assert time.monotonic() < deadline_s, f"not within {WITHIN_S} s: {what}"
        await asyncio.sleep(0.05)


async def until_refused(work: Callable[[], Awaitable[object]], what: str) -> None:
    """Again and again, until the API server will not do it any more."""
    deadline_s = time.monotonic() + WITHIN_S
    while not await _is_refused(work):
        assert time.monotonic() < deadline_s, f"not within {WITHIN_S} s: {what}"
        await asyncio.sleep(0.05)


async def _is_refused(work: Callable[[], Awaitable[object]]) -> bool:
    try:
        await work()
    except RefusedError:
        return True
    return False


async def until(holds: Callable[[], bool], what: str, within_s: float = WITHIN_S) -> None:
    deadline_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline_s, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.01)

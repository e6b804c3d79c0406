"""Pods for tests, and waiting for what becomes of them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from harness.kube.api import Api, Object

Seen = TypeVar("Seen")
# On a machine that is busy with other tests; what has a bound of its own is measured by benchmarks.
WITHIN_S = 150.0
_POLL_S = 0.05


def pod_with(
    name: str, *, container: Mapping[str, Any], labels: Mapping[str, str] | None = None, **spec: Any
) -> Object:
    """One container, of this machine's own programs unless it names another image."""
    only = {"name": "main", "image": "system", **container}
    return {"metadata": {"name": name, "labels": dict(labels or {})}, "spec": {"containers": [only], **spec}}


def uid_of(found: Object) -> str:
    return str(found["metadata"]["uid"])


async def until(
    look: Callable[[], Awaitable[Seen]], holds: Callable[[Seen], bool], what: str, within_s: float = WITHIN_S
) -> Seen:
    """What was seen when it held; polls, for that is what one can do about a cluster, and the deadline bounds it."""
    seen = await look()
    try:
        async with asyncio.timeout(within_s):
            while not holds(seen):
                await asyncio.sleep(_POLL_S)
                seen = await look()
    except TimeoutError:
        raise AssertionError(f"not {what} within {within_s} s; seen last: {seen}") from None
    return seen


async def wait_for_pod(
    api: Api, namespace: str, name: str, holds: Callable[[Object], bool], what: str, within_s: float = WITHIN_S
) -> Object:
    return await until(lambda: api.get(f"/api/v1/namespaces/{namespace}/pods/{name}"), holds, what, within_s)

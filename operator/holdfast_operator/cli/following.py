"""`holdfast k8s logs`: what the agents of all pods write, line by line, each with its pod's name before it."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from holdfast.errors import HoldfastError, UserError
from holdfast_operator.api.v1alpha1.names import AGENT_CONTAINER
from holdfast_operator.cli.cluster import Cluster, Object, Where, connected

_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "red")
_LOOK_S = 2.0
_STAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T")
_OVER = ("Complete", "Failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which lines."""

    job: str
    pod: str | None = None  # of that one alone
    follow: bool = False
    tail: int | None = None  # the last so many of each pod


async def show_logs(where: Where, wanted: Wanted, *, as_json: bool) -> None:
    """Raises: UserError: there is no such job or pod."""
    async with connected(where) as cluster:
        pods = await _pods(cluster, wanted)
        if not pods and not wanted.follow:
            raise UserError(f"{wanted.job}: has no pod yet" if wanted.pod is None else f"{wanted.pod}: no such pod")
        write = _writer(as_json=as_json, width=max((len(_name(pod)) for pod in pods), default=0))
        if not wanted.follow:
            for pod in pods:
                await _read(cluster, wanted, _name(pod), write)
            return
        await _follow(cluster, wanted, write)


async def _follow(cluster: Cluster, wanted: Wanted, write: Callable[[str, str], None]) -> None:
    """Until the job is over and every pod has said its last; pods that come later are followed too."""
    reading: dict[str, asyncio.Task[None]] = {}  # by uid: a pod made anew under an old name is another one
    try:
        while True:
            is_over = _is_over(await cluster.job(wanted.job))
            for pod in await _pods(cluster, wanted):
                uid = pod["metadata"]["uid"]
                if uid not in reading and _has_begun(pod):
                    reading[uid] = asyncio.create_task(_read_on(cluster, wanted, pod, write), name=_name(pod))
            ended = [task for task in reading.values() if task.done()]
            for task in ended:
                task.result()
            if is_over and len(ended) == len(reading):
                return
            await asyncio.sleep(_LOOK_S)
    finally:
        for task in reading.values():
            task.cancel()
        await asyncio.gather(*reading.values(), return_exceptions=True)


async def _read_on(cluster: Cluster, wanted: Wanted, pod: Object, write: Callable[[str, str], None]) -> None:
    """Until its container has ended: a stream that breaks off is taken up after the last line that came."""
    name, last = _name(pod), ""
    query = {"follow": "true", "timestamps": "true"}
    query |= {"tailLines": str(wanted.tail)} if wanted.tail is not None else {}
    while True:
        try:
            async for stamped in _lines(cluster, name, **query):
                time, _, line = stamped.partition(" ")
                if _STAMP.match(time) is None:  # the rest of a line that is too long to come whole
                    write(name, stamped)
                elif time > last:
                    last = time
                    write(name, line)
        except HoldfastError as error:
            _warn(name, error)
        try:
            if await _has_ended(cluster, wanted, pod):
                return
        except HoldfastError as error:
            _warn(name, error)
        await asyncio.sleep(_LOOK_S)
        query.pop("tailLines", None)
        query |= {"sinceTime": last} if last else {}


async def _has_ended(cluster: Cluster, wanted: Wanted, pod: Object) -> bool:
    uid = pod["metadata"]["uid"]
    now = [other for other in await cluster.pods_of(wanted.job) if other["metadata"]["uid"] == uid]
    return not any("running" in state for other in now for state in _states(other))


async def _read(cluster: Cluster, wanted: Wanted, pod: str, write: Callable[[str, str], None]) -> None:
    query = {"tailLines": str(wanted.tail)} if wanted.tail is not None else {}
    try:
        async for line in _lines(cluster, pod, **query):
            write(pod, line)
    except HoldfastError as error:  # of one pod, which may be gone; the others go on
        _warn(pod, error)


def _lines(cluster: Cluster, pod: str, **query: str) -> AsyncIterator[str]:
    return cluster.lines(f"{cluster.pods}/{pod}/log", container=AGENT_CONTAINER, **query)


def _warn(pod: str, error: HoldfastError) -> None:
    print(f"holdfast: {pod}: {error}", file=sys.stderr)


async def _pods(cluster: Cluster, wanted: Wanted) -> list[Object]:
    await cluster.job(wanted.job)
    found = await cluster.pods_of(wanted.job)
    return [pod for pod in found if wanted.pod is None or _name(pod) == wanted.pod]


def _name(pod: Object) -> str:
    return str(pod["metadata"]["name"])


def _has_begun(pod: Object) -> bool:
    return any("running" in state or "terminated" in state for state in _states(pod))


def _states(pod: Object) -> list[Object]:
    """Of its agent's container, if it has any yet."""
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return [status.get("state", {}) for status in statuses if status.get("name") == AGENT_CONTAINER]


def _is_over(job: Object) -> bool:
    conditions = job.get("status", {}).get("conditions", [])
    return any(one["type"] in _OVER and one["status"] == "True" for one in conditions)


def _writer(*, as_json: bool, width: int) -> Callable[[str, str], None]:
    if as_json:
        return lambda pod, line: print(json.dumps({"pod": pod, "line": line}), flush=True)
    console, colours = Console(highlight=False, soft_wrap=True), dict[str, str]()

    def write(pod: str, line: str) -> None:
        colour = colours.setdefault(pod, _COLOURS[len(colours) % len(_COLOURS)])
        console.print(Text.assemble((f"{pod:<{width}} | ", colour), line))

    return write

"""`holdfast k8s logs`: what the agents of all pods write, line by line, each with its pod's name before it."""

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from holdfast.errors import HoldfastError, UserError
from holdfast_operator.api.v1alpha1.names import AGENT_CONTAINER
from holdfast_operator.cli.cluster import Cluster, Object, Where, connected

_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "red")
_LOOK_S = 2.0
_OVER = ("Complete", "Failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which lines."""

    job: str
    pod: str | None = None  # of that one alone
    follow: bool = False
    tail: int | None = None  # the last so many of each pod
    previous: bool = False  # of the container before the present one


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
    async with asyncio.TaskGroup() as tasks:
        while True:
            is_over = _is_over(await cluster.job(wanted.job))
            for pod in await _pods(cluster, wanted):
                uid = pod["metadata"]["uid"]
                if uid not in reading and _has_begun(pod):
                    reading[uid] = tasks.create_task(_read(cluster, wanted, _name(pod), write), name=_name(pod))
            if is_over and all(task.done() for task in reading.values()):
                return
            await asyncio.sleep(_LOOK_S)


async def _read(cluster: Cluster, wanted: Wanted, pod: str, write: Callable[[str, str], None]) -> None:
    query = {"container": AGENT_CONTAINER}
    query |= {"follow": "true"} if wanted.follow else {}
    query |= {"tailLines": str(wanted.tail)} if wanted.tail is not None else {}
    query |= {"previous": "true"} if wanted.previous else {}
    try:
        async for line in cluster.lines(f"{cluster.pods}/{pod}/log", **query):
            write(pod, line)
    except HoldfastError as error:  # of one pod, which may be gone; the others go on
        print(f"holdfast: {pod}: {error}", file=sys.stderr)


async def _pods(cluster: Cluster, wanted: Wanted) -> list[Object]:
    await cluster.job(wanted.job)
    found = await cluster.pods_of(wanted.job)
    return [pod for pod in found if wanted.pod is None or _name(pod) == wanted.pod]


def _name(pod: Object) -> str:
    return str(pod["metadata"]["name"])


def _has_begun(pod: Object) -> bool:
    statuses = pod.get("status", {}).get("containerStatuses", [])
    states = (status.get("state", {}) for status in statuses if status.get("name") == AGENT_CONTAINER)
    return any("running" in state or "terminated" in state for state in states)


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

"""`holdfast k8s status` and `events`: a job as the cluster shows it, for people and as JSON."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from holdfast_operator.api.v1alpha1 import KIND
from holdfast_operator.api.v1alpha1.names import AGENT_CONTAINER, ANNOTATION_DRAIN
from holdfast_operator.cli.cluster import Cluster, Object, Where, connected

_LOOK_S = 2.0


async def show_status(where: Where, name: str | None, *, as_json: bool) -> None:
    """Of one job with its nodes, or a line for each job of the namespace. Raises: UserError: there is no such job."""
    async with connected(where) as cluster:
        if name is None:
            await cluster.knows_jobs()
            jobs = (await cluster.get(cluster.jobs))["items"]
            _print_jobs(cluster.namespace, jobs, as_json=as_json)
            return
        job = await cluster.job(name)
        nodes = [_node(pod) for pod in await cluster.pods_of(name)]
    if as_json:
        print(json.dumps({"job": name, "spec": job["spec"], "status": job.get("status", {}), "nodes": nodes}))
        return
    console = _console()
    for line in _headline(job):
        console.print(line)
    _print_conditions(console, job)
    _print_nodes(console, nodes)


def _console() -> Console:
    """For what others write: square brackets are these and nothing else."""
    return Console(highlight=False, markup=False, emoji=False)


def _headline(job: Object) -> list[Text]:
    status, nodes = job.get("status", {}), job.get("status", {}).get("nodes", {})
    counts = f"{nodes.get('ready', 0)} of {nodes.get('desired', 0)} nodes ready, {nodes.get('draining', 0)} draining"
    phase = status.get("phase") or "not seen by the operator yet"
    lines = [Text.assemble((str(job["metadata"]["name"]), "bold"), f": {phase}; {counts}")]
    facts = {
        "step": status.get("progress"),
        "layout": status.get("layout"),
        "generation": status.get("generation"),
        "samples/s": status.get("samplesPerSecond"),
        "goodput": status.get("goodput"),
        "recoveries": status.get("recoveries"),
    }
    known = [f"{name} {value}" for name, value in facts.items() if value not in (None, "")]
    if (checkpoint := status.get("checkpoint")) is not None:
        known.append(f"checkpoint of step {checkpoint['step']}, {_age(checkpoint['time'])} old, at {checkpoint['url']}")
    return [*lines, *([Text(", ".join(known))] if known else [])]


def _print_conditions(console: Console, job: Object) -> None:
    conditions = job.get("status", {}).get("conditions", [])
    if not conditions:
        return
    table = Table("condition", "status", "reason", "since", "message", box=box.SIMPLE_HEAD)
    for one in conditions:
        table.add_row(one["type"], one["status"], one["reason"], _age(one["lastTransitionTime"]), one["message"])
    console.print(table)


def _node(pod: Object) -> Object:
    """What matters of it."""
    metadata, status = pod["metadata"], pod.get("status", {})
    conditions = {one["type"]: one["status"] for one in status.get("conditions", [])}
    containers = [one for one in status.get("containerStatuses", []) if one["name"] == AGENT_CONTAINER]
    states = [one.get("state", {}) for one in containers]
    ended = next((state["terminated"] for state in states if "terminated" in state), None)
    waiting = next((state["waiting"] for state in states if "waiting" in state), None)
    return {
        "node": metadata["name"],
        "host": pod.get("spec", {}).get("nodeName"),
        "phase": status.get("phase", "Unknown"),
        "ready": conditions.get("Ready") == "True",
        "restarts": sum(one.get("restartCount", 0) for one in containers),
        "created": metadata["creationTimestamp"],
        "leaving": "deletionTimestamp" in metadata or ANNOTATION_DRAIN in metadata.get("annotations", {}),
        "exit_code": ended["exitCode"] if ended is not None else None,
        "why": _why(ended, waiting, status),
    }


def _why(ended: Object | None, waiting: Object | None, status: Object) -> str:
    """It ended, or does not start."""
    for told in (ended, waiting):
        if told is not None:
            return str(told.get("message") or told.get("reason") or "").strip()
    unmet: Object = next(
        (one for one in status.get("conditions", []) if one["type"] == "PodScheduled" and one["status"] == "False"), {}
    )
    return str(unmet.get("message") or status.get("message") or "")


def _print_nodes(console: Console, nodes: Sequence[Object]) -> None:
    if not nodes:
        console.print("no pods")
        return
    table = Table("node", "host", "state", "age", "restarts", "why", box=box.SIMPLE_HEAD)
    for node in nodes:
        state = "leaving" if node["leaving"] else "ready" if node["ready"] else node["phase"].lower()
        why = node["why"].splitlines()[0] if node["why"] else ""
        table.add_row(node["node"], node["host"] or "", state, _age(node["created"]), str(node["restarts"]), why)
    console.print(table)


def _print_jobs(namespace: str, jobs: Sequence[Object], *, as_json: bool) -> None:
    rows = [(job["metadata"], job.get("status", {})) for job in jobs]
    if as_json:
        print(json.dumps([{"job": metadata["name"], "status": status} for metadata, status in rows]))
        return
    if not rows:
        print(f"namespace {namespace} has no {KIND}")
        return
    table = Table("job", "phase", "nodes", "step", "layout", "age", box=box.SIMPLE_HEAD)
    for metadata, status in rows:
        nodes = status.get("nodes", {})
        counts = f"{nodes.get('ready', 0)}/{nodes.get('desired', 0)}"
        cells = (status.get("phase") or "", counts, status.get("progress") or "", status.get("layout") or "")
        table.add_row(metadata["name"], *cells, _age(metadata["creationTimestamp"]))
    _console().print(table)


async def show_events(where: Where, name: str, *, follow: bool, as_json: bool) -> None:
    """What the operator and the cluster told of the job and its pods, oldest first. Raises: UserError: no such job."""
    told: dict[str, int] = {}  # how often each was told of
    async with connected(where) as cluster:
        while True:
            for event in await _events(cluster, name):
                uid, count = event["metadata"]["uid"], int(event.get("count") or 1)
                if told.get(uid, 0) < count:
                    told[uid] = count
                    _print_event(event, as_json=as_json)
            if not follow:
                return
            await asyncio.sleep(_LOOK_S)


async def _events(cluster: Cluster, name: str) -> list[Object]:
    await cluster.job(name)
    pods = {pod["metadata"]["name"] for pod in await cluster.pods_of(name)}
    found = (await cluster.get(cluster.events))["items"]
    return sorted((event for event in found if _is_about(event["involvedObject"], name, pods)), key=_last_seen)


def _is_about(thing: Object, name: str, pods: set[str]) -> bool:
    """Pods that are gone have the job's name and a number."""
    other = str(thing.get("name", ""))
    prefix, _, number = other.rpartition("-")
    is_ours = other in pods or (prefix == name and number.isdecimal())
    return other == name if thing.get("kind") == KIND else thing.get("kind") == "Pod" and is_ours


def _last_seen(event: Object) -> str:
    times = (event.get("lastTimestamp"), event.get("eventTime"), event["metadata"]["creationTimestamp"])
    return str(next(time for time in times if time))


def _print_event(event: Object, *, as_json: bool) -> None:
    thing, count = event["involvedObject"], int(event.get("count") or 1)
    if as_json:
        facts: dict[str, Any] = {"time": _last_seen(event), "type": event.get("type"), "reason": event.get("reason")}
        facts |= {"about": thing.get("name"), "count": count, "message": event.get("message", "")}
        print(json.dumps(facts), flush=True)
        return
    times = f" ({count} times)" if count > 1 else ""
    line = f"{_last_seen(event)[:19]} {event.get('type')} {event.get('reason')} {thing.get('name')}"
    print(f"{line}: {event.get('message', '').strip()}{times}", flush=True)


def _age(time: str) -> str:
    seconds = (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0, seconds):.0f}s"

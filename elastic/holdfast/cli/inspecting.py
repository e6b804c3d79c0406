"""`holdfast status` and `holdfast drain`: a run from outside, through the files in its folder."""

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

from holdfast.chaos.faults import parse_seconds
from holdfast.cli.folder import is_live, read_secret
from holdfast.cli.summary import summary
from holdfast.errors import FaultSyntaxError, JobFailedError, StoreError, UserError
from holdfast.model.ids import NodeId
from holdfast.model.records import DrainRecord, JobRecord, Keys
from holdfast.model.wire import decode, encode
from holdfast.ports.store import Compare, Put, Store
from holdfast.spec import JobSpec
from holdfast.stores.embedded import EmbeddedStore
from holdfast.telemetry.files import RunFiles, RunInfo
from holdfast.telemetry.run_event import EventKind

_EVENTS_SHOWN = 10
_STORE_S = 3.0


def show_status(out: Path, *, as_json: bool) -> None:
    """Raises: UserError: no run is in this folder."""
    info, files = _run_info(out), RunFiles(out)
    report, nodes, events = files.read_report(), files.read_nodes() or {}, files.read_events()
    is_going = report is None and is_live(out)
    commits = [event for event in events if event.kind is EventKind.STEP_COMMITTED]
    told = [event for event in events if event.kind is not EventKind.STEP_COMMITTED][-_EVENTS_SHOWN:]
    if as_json:
        status: dict[str, Any] = {
            "run": dataclasses.asdict(info),
            "live": is_going,
            "step": commits[-1].fields.get("step") if commits else 0,
            "nodes": {name: dataclasses.asdict(node) for name, node in nodes.items()},
            "events": [dataclasses.asdict(event) for event in told],
            "report": json.loads(report.to_json()) if report is not None else None,
        }
        print(json.dumps(status, indent=1))
        return
    if report is not None:
        print(summary(report, out))
        return
    print(f"{info.job} {'is running' if is_going else 'ended without a report: its launcher is gone'}")
    print(f"  {commits[-1].text if commits else 'no step is committed yet'}")
    for name, node in nodes.items():
        print(f"  {name:<10} {node.state.value:<9} agent {node.agent_pid}, workers {list(node.worker_pids)}")
    for event in told:
        print(f"  {event.text}")


def drain_node(out: Path, node: str, within: str | None) -> None:
    """Write the drain where the job's coordinator sees it.

    Raises:
        UserError: there is no such run or node, or the run is over.
        JobFailedError: the run does not answer.
    """
    info = _run_info(out)
    try:
        grace_s = parse_seconds(within) if within is not None else None
    except FaultSyntaxError as error:
        raise UserError(f"--within: {error}") from error
    if RunFiles(out).read_report() is not None:
        raise UserError(f"{out}: the run is over; nobody is left to drain")
    print(asyncio.run(_drain(info, read_secret(out), NodeId(node), grace_s)))


async def _drain(info: RunInfo, secret: str, node: NodeId, grace_s: float | None) -> str:
    host, _, port = info.store.rpartition(":")
    store = EmbeddedStore(host, int(port), timeout_s=_STORE_S, secret=secret.encode())
    try:
        return await _write_drain(store, Keys(job=info.job), node, grace_s)
    except StoreError as error:
        raise JobFailedError(f"the store of the run at {info.store} does not answer: {error}") from error
    finally:
        await store.close()


async def _write_drain(store: Store, keys: Keys, node: NodeId, grace_s: float | None) -> str:
    """What to tell the user. A drain that stands already keeps its deadline."""
    prefix = keys.node(NodeId(""))
    known = [kv.key.removeprefix(prefix) for kv in (await store.get_prefix(prefix)).kvs]
    if node not in known:
        raise UserError(f"node {node!r}: the run has {', '.join(known) or 'no nodes'}")
    if grace_s is None:
        held = await store.get(keys.one("spec"))
        assert held is not None  # nodes come after the job
        grace_s = JobSpec.model_validate(decode(JobRecord, held.value).spec).timeouts.drain_s
    key = keys.drain(node)
    record = DrainRecord(node=node, grace_s=grace_s, reason="holdfast drain")
    written = await store.transact([Compare(key=key, exists=False)], [Put(key=key, value=encode(record))])
    if not written.succeeded:
        return f"{node} is draining already"
    return f"{node} leaves at a step boundary, within {grace_s:g} s"


def _run_info(out: Path) -> RunInfo:
    info = RunFiles(out).read_run()
    if info is None:
        raise UserError(f"{out}: there is no run in this folder (no run.json); should be the --out of a run")
    return info

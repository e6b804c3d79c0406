"""`holdfast status`, `drain`, `stop` and `events`: a job from outside, through its folder or its store."""

import asyncio
import dataclasses
import json
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from holdfast.agent.settings import node_id
from holdfast.chaos.faults import parse_seconds
from holdfast.cli.exits import EXIT_COMPLETED, EXIT_FAILED
from holdfast.cli.folder import is_live, is_submitted
from holdfast.cli.job_status import read_status
from holdfast.cli.summary import summary
from holdfast.cli.target import Target, choose, of_folder, reach, run_info
from holdfast.errors import FaultSyntaxError, ProtocolError, UserError
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.model.records import (
    DrainRecord,
    JobRecord,
    NodeRecord,
    OutcomeRecord,
    PardonRecord,
    Result,
    StopRecord,
)
from holdfast.model.wire import decode, encode
from holdfast.ports.store import Compare, Put, Store
from holdfast.spec import JobSpec
from holdfast.stores.changes import changes_of
from holdfast.telemetry.files import REPORT, RunFiles, event_json
from holdfast.telemetry.recorder import Recorder
from holdfast.telemetry.run_event import EventKind, RunEvent

_EVENTS_SHOWN = 10
# How far back `status` looks for them among the commits.
_EVENTS_READ = 50_000
_POLL_S = 0.1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Which:
    """The job a command is about: its folder, or its name and store."""

    out: Path | None = None
    job: str | None = None
    store: str | None = None


def show_status(which: Which, *, as_json: bool) -> None:
    """Raises: UserError: there is no such run or job."""
    chosen = _where_it_is_told(which)
    if isinstance(chosen, Path):
        _show_run(chosen, as_json=as_json)
        return
    status = asyncio.run(read_status(chosen))
    print(json.dumps(status.as_json(), indent=1) if as_json else "\n".join(status.lines()))


def _where_it_is_told(which: Which) -> Path | Target:
    """A submitted job is told by its store until its report is there: nobody need be writing its folder's files."""
    chosen = choose(which.out, which.job, which.store)
    if isinstance(chosen, Path) and is_submitted(chosen) and RunFiles(chosen).read_report() is None:
        return of_folder(chosen)
    return chosen


def _latest(files: RunFiles) -> tuple[RunEvent | None, list[RunEvent]]:
    """The last commit, and the last few other events, oldest first."""
    commit: RunEvent | None = None
    told: deque[RunEvent] = deque()
    for event in islice(files.latest_events(), _EVENTS_READ):
        if event.kind is not EventKind.STEP_COMMITTED:
            told.appendleft(event)
        elif commit is None:
            commit = event
        if commit is not None and len(told) >= _EVENTS_SHOWN:
            break
    return commit, list(told)[-_EVENTS_SHOWN:]


def _show_run(out: Path, *, as_json: bool) -> None:
    info, files = run_info(out), RunFiles(out)
    report, nodes = files.read_report(), files.read_nodes() or {}
    is_going = report is None and is_live(out)
    commit, told = _latest(files)
    if as_json:
        status: dict[str, Any] = {
            "run": dataclasses.asdict(info),
            "live": is_going,
            "step": commit.fields.get("step") if commit is not None else 0,
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
    print(f"  {commit.text if commit is not None else 'no step is committed yet'}")
    for name, node in nodes.items():
        print(f"  {name:<10} {node.state.value:<9} agent {node.agent_pid}, workers {list(node.worker_pids)}")
    for event in told:
        print(f"  {event.text}")


def drain_node(which: Which, node: str, within: str | None, *, as_json: bool) -> None:
    """Write the drain where the job's coordinator sees it.

    Raises:
        UserError: there is no such job or node, or the job is over.
        JobFailedError: the store does not answer.
    """
    target = reach(which.out, which.job, which.store)
    try:
        grace_s = parse_seconds(within) if within is not None else None
    except FaultSyntaxError as error:
        raise UserError(f"--within: {error}") from error
    record, is_new = asyncio.run(_drain(target, NodeId(node), grace_s))
    if as_json:
        print(json.dumps({"node": node, "grace_s": record.grace_s, "already": not is_new}))
    elif is_new:
        print(f"{node} leaves at a step boundary, within {record.grace_s:g} s")
    else:
        print(f"{node} is draining already")


async def _drain(target: Target, node: NodeId, grace_s: float | None) -> tuple[DrainRecord, bool]:
    """What stands now, and whether this call wrote it. A drain that stands already keeps its deadline."""
    keys = target.keys
    async with target.open() as store:
        prefix = keys.node(NodeId(""))
        known = {kv.key.removeprefix(prefix): kv.value for kv in (await store.get_prefix(prefix)).kvs}
        job = await _require_going(store, target)
        if node not in known:
            raise UserError(f"node {node!r}: the run has {', '.join(known) or 'no nodes'}")
        if grace_s is None:
            grace_s = JobSpec.model_validate(job.spec).timeouts.drain_s
        meant = decode(NodeRecord, known[node]).incarnation
        key = keys.drain(node)
        record = DrainRecord(node=node, grace_s=grace_s, reason="holdfast drain", incarnation=meant)
        written = await store.transact([Compare(key=key, exists=False)], [Put(key=key, value=encode(record))])
        held = None if written.succeeded else await store.get(key)
        return (record, True) if held is None else (decode(DrainRecord, held.value), False)


def pardon_node(which: Which, node: str, reason: str, *, as_json: bool) -> None:
    """Have it forgotten how often a node was lost, so that it may take part again at once.

    Raises:
        UserError: there is no such job, or it is over.
        JobFailedError: the store does not answer.
    """
    target = reach(which.out, which.job, which.store)
    try:
        record = PardonRecord(node=node_id(node), reason=reason)
    except ValueError as error:
        raise UserError(str(error)) from error
    asyncio.run(_pardon(target, record))
    print(json.dumps({"node": node, "reason": reason}) if as_json else f"{node} is pardoned: {reason}")


async def _pardon(target: Target, record: PardonRecord) -> None:
    async with target.open() as store:
        await _require_going(store, target)
        await store.put(target.keys.pardon(record.node), encode(record))


def stop_job(which: Which, reason: str, *, wait: bool, as_json: bool) -> int:
    """Ask the job to end at the next step boundary with its weights written; the exit code.

    Raises:
        UserError: there is no such job, or it is over.
        JobFailedError: the store does not answer.
    """
    target = reach(which.out, which.job, which.store)
    is_new, outcome = asyncio.run(_stop(target, reason, wait=wait))
    if as_json:
        ended = dataclasses.asdict(outcome) if outcome is not None else None
        print(json.dumps({"job": target.job, "already": not is_new, "outcome": ended}))
    elif outcome is not None:
        print(f"{target.job} {outcome.result.value}: {outcome.reason}, at step {outcome.step}")
    else:
        print(f"{target.job} {'stops at the next step boundary' if is_new else 'is stopping already'}")
    return EXIT_FAILED if outcome is not None and outcome.result is Result.FAILED else EXIT_COMPLETED


async def _stop(target: Target, reason: str, *, wait: bool) -> tuple[bool, OutcomeRecord | None]:
    async with target.open() as store:
        await _require_going(store, target)
        key, record = target.keys.one("stop"), StopRecord(reason=reason)
        written = await store.transact([Compare(key=key, exists=False)], [Put(key=key, value=encode(record))])
        return written.succeeded, await await_outcome(store, target.keys) if wait else None


async def await_outcome(
    store: Store, keys: Keys, on_change: Callable[[str, bytes | None], None] = lambda *_: None
) -> OutcomeRecord:
    """How the job ended, once it has; every change until then goes to `on_change`."""
    async for changes in changes_of(store, keys.prefix):
        for key, value in changes:
            on_change(key, value)
            if key == keys.one("outcome") and value is not None:
                try:
                    return decode(OutcomeRecord, value)
                except ProtocolError:
                    continue  # whoever leads writes it again
    raise AssertionError("changes have no end")


def show_events(which: Which, *, follow: bool, as_json: bool) -> None:
    """Print what happened, and with `follow` what happens until the job is over.

    Raises:
        UserError: there is no such run or job.
        JobFailedError: the store does not answer.
    """
    chosen = _where_it_is_told(which)

    def tell(event: RunEvent) -> None:
        clock = time.strftime("%H:%M:%S", time.localtime(event.time_s))
        print(event_json(event) if as_json else f"{clock}  {event.text}", flush=True)

    if isinstance(chosen, Path):
        _tell_run(chosen, tell, follow=follow)
    else:
        asyncio.run(_tell_job(chosen, tell, follow=follow))


def _tell_run(out: Path, tell: Callable[[RunEvent], None], *, follow: bool) -> None:
    """From events.jsonl, which has also what the launcher did; `follow` ends with the launcher."""
    run_info(out)
    files = RunFiles(out)
    while True:
        is_over = not follow or (out / REPORT).exists() or not is_live(out)
        for event in files.new_events():
            tell(event)
        if is_over:
            return
        time.sleep(_POLL_S)


async def _tell_job(target: Target, tell: Callable[[RunEvent], None], *, follow: bool) -> None:
    async with target.open() as store:
        job = await _require(store, target)
        recorder = Recorder(job, name=target.job, global_batch=job.global_batch)

        def seen(key: str, value: bytes | None) -> None:
            for event in recorder.apply(key, value, time.time()):
                tell(event)

        if follow:
            await await_outcome(store, target.keys, seen)
            return
        snapshot = await store.get_prefix(target.keys.prefix)
        for kv in sorted(snapshot.kvs, key=lambda kv: kv.mod_revision):
            seen(kv.key, kv.value)


async def _require(store: Store, target: Target) -> JobRecord:
    held = await store.get(target.keys.one("spec"))
    if held is None:
        raise UserError(f"--job {target.job}: there is no such job at {target.address}")
    return decode(JobRecord, held.value)


async def _require_going(store: Store, target: Target) -> JobRecord:
    job = await _require(store, target)
    if await store.get(target.keys.one("outcome")) is not None:
        raise UserError(f"--job {target.job}: the job is over; nobody is left to tell")
    return job

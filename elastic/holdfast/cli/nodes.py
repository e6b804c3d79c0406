"""The nodes of a local run: an agent each, in a process group of its own, so that a node can be killed whole."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.chaos.faults import node_name
from holdfast.cli.access import SECRET
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.keys import Keys
from holdfast.model.records import DrainRecord, NodeRecord
from holdfast.model.wire import encode
from holdfast.ports.store import Compare, Put, Store

log = logging.getLogger(__name__)
_POLL_S = 0.05
# How long an agent that has left the store may take to end.
_EXIT_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesSettings:
    """What every agent of the run is started with."""

    job: str
    store_address: str
    host: str  # of every agent
    secret: str = field(repr=False)
    slots: int
    drain_s: float  # grace of a drain that names none
    logs: Path
    scratch: Path  # temporary files of all agents


class LocalNodes:
    """Starts, signals and finally ends the nodes; nothing of them outlives `kill_all`."""

    def __init__(
        self,
        settings: NodesSettings,
        store: Store,
        on_start: Callable[[NodeId, int], None],
        on_exit: Callable[[NodeId, int], None],
    ) -> None:
        """`on_start(node, pid)`, `on_exit(node, status)`: of an agent's process."""
        self._settings, self._store = settings, store
        self._on_start, self._on_exit = on_start, on_exit
        self._keys = Keys(job=settings.job)
        self._processes: dict[NodeId, asyncio.subprocess.Process] = {}
        self._waits: set[asyncio.Task[None]] = set()
        self._records: dict[NodeId, NodeRecord] = {}

    @property
    def alive(self) -> tuple[NodeId, ...]:
        """Nodes whose agent runs."""
        return tuple(node for node, process in self._processes.items() if process.returncode is None)

    def see(self, node: NodeId, record: NodeRecord | None) -> None:
        """What the store says of a node; the workers' pids come from there."""
        if record is None:
            self._records.pop(node, None)
        else:
            self._records[node] = record

    async def join(self) -> NodeId:
        node = node_name(len(self._processes))
        settings = self._settings
        self._settings.logs.mkdir(parents=True, exist_ok=True)
        with (settings.logs / f"{node}.log").open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "holdfast.cli.main", "agent", "--job", settings.job, "--store", settings.store_address),
                *("--node", node, "--address", settings.host, "--slots", str(settings.slots)),
                *("--json", "--parent-pid", str(os.getpid())),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Out of reach of the terminal's Ctrl-C, and a group that a fault can hit as one.
                start_new_session=True,
                env={
                    "OMP_NUM_THREADS": "1",
                    **{name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")},
                    "PYTHONSAFEPATH": "1",  # what lies in the present folder shadows nothing
                    "TMPDIR": str(settings.scratch),
                    SECRET: settings.secret,
                },
            )
        self._processes[node] = process
        wait = asyncio.create_task(self._wait(node, process), name=f"wait-{node}")
        self._waits.add(wait)
        wait.add_done_callback(self._waits.discard)
        log.info("node.started", extra={"node": node, "pid": process.pid})
        self._on_start(node, process.pid)
        return node

    async def drain(self, node: NodeId, grace_s: float | None, reason: str) -> None:
        self._agent(node)
        record = DrainRecord(node=node, grace_s=self._settings.drain_s if grace_s is None else grace_s, reason=reason)
        key = self._keys.drain(node)
        # A drain that stands already keeps its deadline.
        await self._store.transact([Compare(key=key, exists=False)], [Put(key=key, value=encode(record))])

    def signal_node(self, node: NodeId, number: signal.Signals) -> None:
        os.killpg(self._agent(node).pid, number)

    def signal_agent(self, node: NodeId, number: signal.Signals) -> None:
        os.kill(self._agent(node).pid, number)

    def signal_worker(self, slot: SlotId, number: signal.Signals) -> None:
        group = self._agent(slot.node).pid
        record = self._records.get(slot.node)
        pid = next((ref.pid for ref in record.workers if ref.slot == slot), None) if record is not None else None
        if pid is None:
            raise LookupError(f"{slot} has no warm worker")
        # A record outlives what it tells of for a moment; the pid may be anybody's by then.
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(pid) == group:
                os.kill(pid, number)
                return
        raise LookupError(f"the worker of {slot}, pid {pid}, is gone")

    async def wait_gone(self, timeout_s: float, hurry: asyncio.Event) -> None:
        """Until every agent that the store knows has ended, at most so long, or until somebody is in a hurry.

        One that the store does not know is starting up, or stopped, and holds nothing that anybody waits for.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        leaving = set(self._records)
        while leaving & set(self.alive) and loop.time() < deadline_s and not hurry.is_set():
            if not self._records:
                deadline_s = min(deadline_s, loop.time() + _EXIT_S)
            await asyncio.wait(tuple(self._waits), timeout=_POLL_S, return_when=asyncio.FIRST_COMPLETED)

    async def kill_all(self) -> None:
        """End every process of every node, stopped ones too, and wait until the agents are gone."""
        for process in self._processes.values():
            # Also where the agent has ended: its group is there as long as any process of it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        while self._waits:
            await asyncio.wait(tuple(self._waits))

    def _agent(self, node: NodeId) -> asyncio.subprocess.Process:
        process = self._processes.get(node)
        if process is None:
            raise LookupError(f"there is no {node}")
        if process.returncode is not None:
            raise LookupError(f"{node} has left or died before")
        return process

    async def _wait(self, node: NodeId, process: asyncio.subprocess.Process) -> None:
        status = await process.wait()
        log.info("node.ended", extra={"node": node, "status": status})
        self._on_exit(node, status)

"""The nodes of a local run: an agent each, in a process group of its own, so that a node can be killed whole.

All are forked from one fork server (local_node.py), which is started as soon as a run is asked for: it imports torch
while what was asked for is checked.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.agent.fork_server import Command, ForkServerProcess, RunningServer
from holdfast.chaos.faults import node_name
from holdfast.errors import HoldfastError
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.keys import Keys
from holdfast.model.messages import NodeOrder
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


def nodes_command() -> Command:
    """Starts what nodes are forked from."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    return Command(
        module="holdfast.cli.local_node",
        # The last: what lies in the present folder shadows nothing.
        environment={"OMP_NUM_THREADS": "1", **inherited, "PYTHONSAFEPATH": "1"},
        own_session=True,
    )


class _Agent:
    """The process of one agent: its pid, once there is one, and its status, once it has ended."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.born: asyncio.Future[int] = loop.create_future()
        self.ended: asyncio.Future[int] = loop.create_future()

    @property
    def pid(self) -> int | None:
        """None: it is not born, and may never be."""
        return self.born.result() if self.born.done() and self.born.exception() is None else None

    @property
    def is_alive(self) -> bool:
        return self.pid is not None and not self.ended.done()


class LocalNodes:
    """Starts, signals and finally ends the nodes; nothing of them outlives `kill_all`."""

    def __init__(
        self,
        settings: NodesSettings,
        server: RunningServer,
        store: Store,
        on_start: Callable[[NodeId, int], None],
        on_exit: Callable[[NodeId, int], None],
    ) -> None:
        """`server`: what `nodes_command` started. `on_start(node, pid)`, `on_exit(node, status)`: of an agent's
        process."""
        self._settings, self._store = settings, store
        self._on_start, self._on_exit = on_start, on_exit
        self._keys = Keys(job=settings.job)
        self._agents: dict[NodeId, _Agent] = {}
        self._server = ForkServerProcess(
            "nodes", nodes_command(), self._spawned, self._exited, self._lost, running=server
        )
        self._records: dict[NodeId, NodeRecord] = {}

    @property
    def alive(self) -> tuple[NodeId, ...]:
        """Nodes whose agent runs."""
        return tuple(node for node, agent in self._agents.items() if agent.is_alive)

    def see(self, node: NodeId, record: NodeRecord | None) -> None:
        """What the store says of a node; the workers' pids come from there."""
        if record is None:
            self._records.pop(node, None)
        else:
            self._records[node] = record

    async def join(self) -> NodeId:
        """Raises: HoldfastError: it could not be started."""
        number, settings = len(self._agents), self._settings
        node, agent = node_name(number), _Agent()
        self._agents[node] = agent
        settings.logs.mkdir(parents=True, exist_ok=True)
        order = NodeOrder(
            number=number,
            node=node,
            arguments=(
                *("--job", settings.job, "--store", settings.store_address, "--node", node),
                *("--address", settings.host, "--slots", str(settings.slots), "--json"),
            ),
            environment={"TMPDIR": str(settings.scratch)},
            secret=settings.secret,
            log=str(settings.logs.absolute() / f"{node}.log"),
        )
        await self._server.fork(number, 1, encode(order))
        pid = await asyncio.shield(agent.born)
        log.info("node.started", extra={"node": node, "pid": pid})
        self._on_start(node, pid)
        return node

    async def drain(self, node: NodeId, grace_s: float | None, reason: str) -> None:
        self._pid(node)
        record = DrainRecord(node=node, grace_s=self._settings.drain_s if grace_s is None else grace_s, reason=reason)
        key = self._keys.drain(node)
        # A drain that stands already keeps its deadline.
        await self._store.transact([Compare(key=key, exists=False)], [Put(key=key, value=encode(record))])

    def signal_node(self, node: NodeId, number: signal.Signals) -> None:
        os.killpg(self._pid(node), number)

    def signal_agent(self, node: NodeId, number: signal.Signals) -> None:
        os.kill(self._pid(node), number)

    def signal_worker(self, slot: SlotId, number: signal.Signals) -> None:
        group = self._pid(slot.node)
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
            waits = [agent.ended for agent in self._agents.values() if agent.is_alive]
            await asyncio.wait(waits, timeout=_POLL_S, return_when=asyncio.FIRST_COMPLETED)

    async def kill_all(self) -> None:
        """End every process of every node, stopped ones too, and wait until the agents are gone."""
        for agent in self._agents.values():
            # Also where the agent has ended: its group is there as long as any process of it.
            if agent.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(agent.pid, signal.SIGKILL)
        if ends := [agent.ended for agent in self._agents.values() if agent.is_alive]:
            await asyncio.wait(ends)
        await self._server.close()

    def _pid(self, node: NodeId) -> int:
        """Of its agent. Raises: LookupError: it does not run."""
        agent = self._agents.get(node)
        if agent is None:
            raise LookupError(f"there is no {node}")
        if agent.pid is None:
            raise LookupError(f"{node} is not started yet")
        if not agent.is_alive:
            raise LookupError(f"{node} has left or died before")
        return agent.pid

    def _spawned(self, number: int, pid: int) -> None:
        self._agents[node_name(number)].born.set_result(pid)

    def _exited(self, pid: int, status: int) -> None:
        self._ended(next(node for node, agent in self._agents.items() if agent.is_alive and agent.pid == pid), status)

    def _lost(self, number: int, _: int, status: int) -> None:
        """What they were forked from ended, and they with it."""
        node = node_name(number)
        agent = self._agents[node]
        if agent.is_alive:
            self._ended(node, -signal.SIGKILL)
        elif not agent.born.done():
            error = f"{node}: could not be started: what nodes are forked from ended with status {status}"
            agent.born.set_exception(HoldfastError(error))

    def _ended(self, node: NodeId, status: int) -> None:
        log.info("node.ended", extra={"node": node, "status": status})
        # Not at once: whatever comes of telling it, those who wait for its end, and for others', hear of them.
        asyncio.get_running_loop().call_soon(self._on_exit, node, status)
        self._agents[node].ended.set_result(status)

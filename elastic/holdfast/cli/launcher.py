"""Runs a prepared job on this machine: the store, the nodes, the faults, and the end, which leaves no process behind.

The first Ctrl-C or SIGTERM asks the job to stop at the next step boundary with its weights written; the second kills.
"""

import asyncio
import contextlib
import logging
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from holdfast.agent.fork_server import RunningServer
from holdfast.chaos.injector import FaultReport, Injector
from holdfast.cli.following import Follower
from holdfast.cli.nodes import LocalNodes, NodesSettings
from holdfast.cli.preparing import Prepared
from holdfast.errors import HoldfastError
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.model.records import CheckpointsRecord, OutcomeRecord, Result, StopRecord
from holdfast.model.wire import encode
from holdfast.ports.store import Compare, Put, Store
from holdfast.stores.address import join_endpoint
from holdfast.stores.embedded import EmbeddedServer, EmbeddedStore

log = logging.getLogger(__name__)
# After the outcome: how long agents may take to leave before they are killed.
_LEAVE_S = 5.0


class Listener(Protocol):
    """Is told of a run as it goes; called on the event loop, so it must be quick."""

    def opened(self, host: str, port: int, secret: str) -> None:
        """The store serves at this address."""
        ...

    def changed(self, key: str, value: bytes | None) -> None:
        """A key of the job was written, or is gone (None)."""
        ...

    def fault(self, report: FaultReport) -> None: ...

    def node_started(self, node: NodeId, pid: int) -> None: ...

    def node_ended(self, node: NodeId, status: int) -> None:
        """The agent's process is gone; `status` negative for a signal."""
        ...

    def stopping(self, reason: str) -> None:
        """Somebody asked the job to stop."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run ended. `killed`: by a second Ctrl-C."""

    outcome: OutcomeRecord
    killed: bool


async def launch(prepared: Prepared, server: RunningServer, out: Path, listener: Listener) -> Ending:
    """Run the job to its end, on nodes forked from `server`; its layers are in `out` if it was completed or stopped."""
    # Scratch files of all agents lie in one folder, since an agent that is killed cannot remove its own.
    scratch = await asyncio.to_thread(tempfile.mkdtemp, prefix="holdfast-run-")
    try:
        async with _serving(listener) as (rendezvous, store, secret):
            settings = NodesSettings(
                job=prepared.spec.name,
                store_address=join_endpoint(rendezvous.host, rendezvous.port),
                host=rendezvous.host,
                secret=secret,
                slots=prepared.spec.slots_per_node,
                drain_s=prepared.spec.timeouts.drain_s,
                logs=out / "logs",
                scratch=Path(scratch),
            )
            return await _Launch(prepared, server, store, settings, listener).run(out)
    finally:
        await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)


@contextlib.asynccontextmanager
async def _serving(listener: Listener) -> AsyncIterator[tuple[EmbeddedServer, Store, str]]:
    """A store of this run's own, which only those who know the secret can use."""
    secret = secrets.token_hex(32)
    server = EmbeddedServer(secret=secret.encode())
    await server.start()
    store = EmbeddedStore(server.host, server.port, secret=secret.encode())
    try:
        listener.opened(server.host, server.port, secret)
        yield server, store, secret
    finally:
        await store.close()
        await server.close()


class _Launch:
    """One run."""

    def __init__(
        self, prepared: Prepared, server: RunningServer, store: Store, settings: NodesSettings, listener: Listener
    ) -> None:
        self._prepared, self._store, self._listener = prepared, store, listener
        self._keys = Keys(job=settings.job)
        self._nodes = LocalNodes(settings, server, store, listener.node_started, self._node_ended)
        self._injector = Injector(prepared.faults, self._nodes, listener.fault)
        self._follower = Follower(self._keys, self._nodes.see, self._injector.committed, listener.changed)
        self._alone = asyncio.Event()  # set whenever an agent ended and none is left
        self._interrupts = 0
        self._killed = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None  # while it trains

    async def run(self, out: Path) -> Ending:
        try:
            if self._prepared.checkpoints:
                known = CheckpointsRecord(committed=self._prepared.checkpoints)
                await self._store.put(self._keys.one("checkpoints"), encode(known))
            await self._store.put(self._keys.one("spec"), encode(self._prepared.job_record(out)))
            with self._signals():
                try:
                    await self._train()
                finally:  # and no further Ctrl-C comes between
                    await self._nodes.kill_all()
        except ExceptionGroup as group:  # of its tasks
            ours, bugs = group.split(HoldfastError)
            if ours is None or bugs is not None:
                raise
            raise ours.exceptions[0] from group
        self._injector.missed("the job ended before")
        killed = self._killed.is_set() and self._follower.outcome is None
        outcome = self._follower.outcome or OutcomeRecord(
            result=Result.FAILED, reason="killed by a second Ctrl-C", step=self._follower.step
        )
        return Ending(outcome=outcome, killed=killed)

    async def _train(self) -> None:
        """Until the outcome is written or the user kills the run; then a moment for the agents to leave."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            background = [
                tasks.create_task(self._follower.run(self._store), name="follow"),
                tasks.create_task(self._start(), name="start"),
                tasks.create_task(self._despair(), name="despair"),
            ]
            over = [
                tasks.create_task(self._follower.ended.wait(), name="outcome"),
                tasks.create_task(self._killed.wait(), name="killed"),
            ]
            try:
                await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
                if not self._killed.is_set():
                    await self._nodes.wait_gone(_LEAVE_S, self._killed)
            finally:
                self._tasks = None
            for task in (*background, *over):
                task.cancel()

    async def _start(self) -> None:
        """The nodes that are there from the beginning; then faults may come, and others join."""
        for _ in range(self._prepared.nodes):
            await self._nodes.join()
        await self._injector.run()

    async def _despair(self) -> None:
        """Nobody is left who could write the outcome, and nobody will come: write it."""
        while True:
            await self._alone.wait()
            self._alone.clear()
            if self._nodes.alive or self._injector.expects_join:
                continue
            key = self._keys.one("outcome")
            outcome = OutcomeRecord(result=Result.FAILED, reason="no node is left", step=self._follower.step)
            await self._store.transact([Compare(key=key, exists=False)], [Put(key=key, value=encode(outcome))])

    def _node_ended(self, node: NodeId, status: int) -> None:
        self._listener.node_ended(node, status)
        if not self._nodes.alive:
            self._alone.set()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self._interrupted)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _interrupted(self) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            self._killed.set()
        elif self._tasks is not None:
            self._listener.stopping("interrupted")
            self._tasks.create_task(
                self._store.put(self._keys.one("stop"), encode(StopRecord(reason="interrupted"))), name="stop"
            )

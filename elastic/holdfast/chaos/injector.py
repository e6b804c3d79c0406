"""Fires faults at the processes of a run, each at its step or time, and says what came of it.

A fault whose node or worker is not there when it fires is reported, and hurts nothing else.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from holdfast.chaos.faults import (
    SIGNALS,
    AtStep,
    DrainNode,
    Fault,
    JoinNode,
    SignalAgent,
    SignalNode,
    SignalWorker,
)
from holdfast.errors import HoldfastError
from holdfast.model.ids import NodeId, SlotId

log = logging.getLogger(__name__)


class Nodes(Protocol):
    """What faults are done to. Each method raises LookupError, with a sentence, where its target is not there."""

    def signal_node(self, node: NodeId, number: signal.Signals) -> None:
        """To all processes of the node."""
        ...

    def signal_agent(self, node: NodeId, number: signal.Signals) -> None: ...

    def signal_worker(self, slot: SlotId, number: signal.Signals) -> None: ...

    async def drain(self, node: NodeId, grace_s: float | None, reason: str) -> None: ...

    async def join(self) -> NodeId:
        """Start a new node; returns without waiting for it to be ready. Raises: HoldfastError: it cannot be started."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultReport:
    """What came of one fault. `missed` says why it could not be done; None if it was."""

    fault: Fault
    step: int  # committed steps when it fired
    node: NodeId | None
    missed: str | None = None

    def __str__(self) -> str:
        if self.missed is not None:
            return f"fault missed: {self.fault.sentence}: {self.missed}"
        joined = f" ({self.node})" if isinstance(self.fault.action, JoinNode) else ""
        return f"fault: {self.fault.sentence}{joined}"


class Injector:
    """`run` ends when every fault has fired. Of faults due at once, the one written first fires first."""

    def __init__(self, faults: Iterable[Fault], nodes: Nodes, report: Callable[[FaultReport], None]) -> None:
        self._waiting = list(faults)
        self._nodes, self._report = nodes, report
        self._step = 0
        self._stepped = asyncio.Event()

    @property
    def expects_join(self) -> bool:
        """Whether a node will join even if no step is committed any more."""
        return any(isinstance(f.action, JoinNode) and not isinstance(f.when, AtStep) for f in self._waiting)

    def committed(self, step: int) -> None:
        """So many steps are seen committed."""
        if step > self._step:
            self._step = step
            self._stepped.set()

    async def run(self) -> None:
        now_s = asyncio.get_running_loop().time
        begun_s = now_s()
        while self._waiting:
            self._stepped.clear()
            elapsed_s = now_s() - begun_s
            due = [fault for fault in self._waiting if self._until_s(fault, elapsed_s) <= 0]
            for fault in due:
                await self._fire(fault)
                self._waiting.remove(fault)
            if due:
                continue
            pause_s = min(self._until_s(fault, elapsed_s) for fault in self._waiting)
            with contextlib.suppress(TimeoutError):  # the next one's time has come
                await asyncio.wait_for(self._stepped.wait(), None if pause_s == float("inf") else pause_s)

    def missed(self, why: str) -> None:
        """Report all that has not fired: the run is over."""
        for fault in self._waiting:
            self._report(FaultReport(fault=fault, step=self._step, node=fault.node, missed=why))
        self._waiting.clear()

    def _until_s(self, fault: Fault, elapsed_s: float) -> float:
        if isinstance(fault.when, AtStep):
            return 0.0 if self._step >= fault.when.step else float("inf")
        return fault.when.delay_s - elapsed_s

    async def _fire(self, fault: Fault) -> None:
        step, node, missed = self._step, fault.node, None
        try:
            node = await self._do(fault) or node
        except (LookupError, HoldfastError) as error:
            missed = str(error.args[0]) if error.args else type(error).__name__
        log.info("fault.fired", extra={"fault": fault.sentence, "step": step, "node": node, "missed": missed})
        self._report(FaultReport(fault=fault, step=step, node=node, missed=missed))

    async def _do(self, fault: Fault) -> NodeId | None:
        """The node that joined, if one did."""
        match fault.action:
            case SignalNode("terminate", node) | SignalAgent("terminate", node):
                self._nodes.signal_agent(node, signal.SIGTERM)
            case SignalNode(verb, node):
                self._nodes.signal_node(node, SIGNALS[verb])
            case SignalAgent(verb, node):
                self._nodes.signal_agent(node, SIGNALS[verb])
            case SignalWorker(verb, slot):
                self._nodes.signal_worker(slot, SIGNALS[verb])
            case DrainNode(node, grace_s):
                await self._nodes.drain(node, grace_s, fault.sentence)
            case JoinNode():
                return await self._nodes.join()
        return None

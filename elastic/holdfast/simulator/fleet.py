"""Very many nodes as the coordinator sees them: their records and acknowledgements, without agents or workers.

Every node does at once and rightly what a generation asks of it, so what is measured is the coordinator, the planner
and what passes through the store.
"""

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from holdfast.control.coordinator import Coordinator
from holdfast.control.job import Job
from holdfast.model.commands import Command, EvictNode, ProbeNode, ReleaseDrain, WriteGeneration, WriteStart
from holdfast.model.events import (
    AckReceived,
    DrainChanged,
    Event,
    NodeChanged,
    NodeRefused,
    ProbeAnswered,
    ProgressMade,
    TimePassed,
)
from holdfast.model.ids import NodeId, SlotId, WorkerId
from holdfast.model.records import (
    AckPhase,
    Commit,
    DrainRecord,
    GenerationRecord,
    NodeAck,
    NodeRecord,
    ProgressRecord,
    SlotInventory,
    SlotStart,
    StartRecord,
    Version,
    WorkerRef,
)
from holdfast.model.wire import encode


@dataclass(slots=True)
class Traffic:
    """What one generation cost. `cpu_s`: of the coordinator, planning included. Bytes are of values only.
    `messages`: each write's request and answer, and what every watch is told of it."""

    cpu_s: float = 0.0
    longest_s: float = 0.0  # the event that took longest
    events: int = 0
    writes: int = 0
    bytes_written: int = 0
    messages: int = 0
    bytes_delivered: int = 0  # to all watches together
    generation_bytes: int = 0
    start_bytes: int = 0
    causes: list[str] = field(default_factory=list)


class Fleet:
    """A coordinator and its nodes. Time passes only between events, as far as the coordinator asks for."""

    def __init__(self, job: Job, slots_per_node: int) -> None:
        self._job, self._slots_per_node = job, slots_per_node
        self._now_s = 0.0
        self._coordinator = Coordinator(job, now_s=0.0)
        self._nodes: dict[NodeId, NodeRecord] = {}
        self._held: dict[SlotId, frozenset[int]] = {}
        self._version = Version(0, 0)
        self._generation: GenerationRecord | None = None
        self._events: deque[Event] = deque()
        self.traffic = Traffic()

    @property
    def nodes(self) -> tuple[NodeId, ...]:
        return tuple(self._nodes)

    # What happens.

    def appear(self, nodes: Iterable[int]) -> None:
        for number in nodes:
            record = self._record(number)
            self._nodes[record.node] = record
            self._write(record, NodeChanged(record.node, record))

    def kill(self, node: NodeId) -> None:
        """Its connection to the leader breaks, and a probe is refused."""
        record = self._nodes.pop(node)
        self._events.append(NodeRefused(node, record.incarnation))

    def drain(self, node: NodeId) -> None:
        record = DrainRecord(node=node, grace_s=600.0, reason="measured")
        self._write(record, DrainChanged(node, record))

    def measure(self) -> Traffic:
        """All that follows, until nothing is left to do; what it cost since the last time."""
        while self._events or (self._coordinator.wake_at_s is not None and self._coordinator.wake_at_s > self._now_s):
            if not self._events:
                self._now_s = max(self._now_s, self._coordinator.wake_at_s or 0.0)
            self._handle(self._events.popleft() if self._events else TimePassed())
        done, self.traffic = self.traffic, Traffic()
        return done

    def _handle(self, event: Event) -> None:
        begun_s = time.process_time()
        commands = self._coordinator.handle(event, self._now_s)
        took_s = time.process_time() - begun_s
        traffic = self.traffic
        traffic.cpu_s += took_s
        traffic.longest_s = max(traffic.longest_s, took_s)
        traffic.events += 1
        for command in commands:
            self._carry_out(command)

    def _carry_out(self, command: Command) -> None:
        match command:
            case WriteGeneration(record):
                self.traffic.generation_bytes += self._write(record)
                self.traffic.causes.append(record.cause)
                self._generation = record
                self._stop()
            case WriteStart(record):
                self.traffic.start_bytes += self._write(record)
                self._start(record)
            case ReleaseDrain(record):
                self._write(record, DrainChanged(record.node, record))
                del self._nodes[record.node]
                self._events.append(NodeChanged(record.node, None))
            case EvictNode(record):
                self._count(0)
                self._events.append(NodeChanged(record.node, None))
            case ProbeNode(record):
                workers = tuple(ref.worker for ref in record.workers) if record.node in self._nodes else None
                self._events.append(ProbeAnswered(record.node, record.incarnation, workers, workers or ()))
            case _:
                raise AssertionError(f"nothing ends the job here, and yet: {command}")

    # What nodes answer.

    def _stop(self) -> None:
        for node, record in self._members():
            inventory = tuple(self._inventory(ref) for ref in record.workers)
            self._acknowledge(node, AckPhase.STOPPED, inventory, ())

    def _start(self, start: StartRecord) -> None:
        plan = start.plan
        assert plan is not None, "there are always enough nodes"
        self._held = {stage.slot: frozenset(stage.layers) for stage in plan.stages}
        for node, record in self._members():
            starts = tuple(
                SlotStart(slot=ref.slot, form_s=0.0, move_s=0.0, received=(), initialised_layers=0)
                for ref in record.workers
            )
            inventory = tuple(self._inventory(ref) for ref in record.workers)
            self._acknowledge(node, AckPhase.RUNNING, inventory, starts)
        self._version = Version(start.version.step + 1, start.generation)
        commit = Commit(step=self._version.step, loss=1.0, grad_norm=None, time_s=self._now_s)
        progress = ProgressRecord(generation=start.generation, commits=(commit,))
        self._write(progress, ProgressMade(progress))

    def _members(self) -> list[tuple[NodeId, NodeRecord]]:
        assert self._generation is not None
        members = {ref.slot.node for ref in self._generation.members}
        return [(node, record) for node, record in self._nodes.items() if node in members]

    def _acknowledge(
        self, node: NodeId, phase: AckPhase, inventory: tuple[SlotInventory, ...], starts: tuple[SlotStart, ...]
    ) -> None:
        assert self._generation is not None
        number, incarnation = self._generation.number, self._nodes[node].incarnation
        ack = NodeAck(
            generation=number, node=node, incarnation=incarnation, phase=phase, inventory=inventory, starts=starts
        )
        self._write(ack, AckReceived(ack))

    def _inventory(self, ref: WorkerRef) -> SlotInventory:
        layers = self._held.get(ref.slot, frozenset())
        return SlotInventory(
            slot=ref.slot,
            worker=ref.worker,
            layers=tuple(sorted(layers)),
            version=self._version if layers else None,
        )

    def _record(self, number: int) -> NodeRecord:
        node = NodeId(f"node-{number:05d}")
        host = f"10.{number // 65536}.{number // 256 % 256}.{number % 256}"
        workers = tuple(
            WorkerRef(
                slot=SlotId(node, index),
                worker=WorkerId(f"{number:08x}{index:04x}"),
                address=f"{host}:{40000 + index}",
                pid=1000 + index,
            )
            for index in range(self._slots_per_node)
        )
        return NodeRecord(
            node=node,
            incarnation=f"{number:012x}",
            host=host,
            port=39999,
            domain=node,
            agent_pid=999,
            workers=workers,
        )

    def _write(self, record: object, event: Event | None = None) -> int:
        size = len(encode(record))
        self.traffic.bytes_written += size
        self._count(size)
        if event is not None:
            self._events.append(event)
        return size

    def _count(self, size: int) -> None:
        """Of one write: every agent follows the whole job, and the coordinator does once more."""
        watches = len(self._nodes) + 1
        self.traffic.writes += 1
        self.traffic.messages += 2 + watches
        self.traffic.bytes_delivered += size * watches

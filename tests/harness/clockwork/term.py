"""One term of leadership: holdfast.agent.leading without asyncio, around the real Coordinator.

An action is one write, one event or one answer, so that anything can happen between a decision and what it causes.
"""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.clockwork.decoding import decoded, events
from holdfast.control.coordinator import Coordinator
from holdfast.model.commands import (
    Command,
    EvictNode,
    ProbeNode,
    ReleaseDrain,
    WriteGeneration,
    WriteOutcome,
    WriteStart,
)
from holdfast.model.events import Event, ProbeAnswered, TimePassed
from holdfast.model.ids import NodeId
from holdfast.model.records import GenerationRecord, LeaderRecord, NodeRecord, StartRecord
from holdfast.model.wire import encode
from holdfast.ports.store import Compare, Delete, Operation, Put

if TYPE_CHECKING:
    from harness.clockwork.world import World


class Term:
    """From winning the leader key until a write is refused or the job is over."""

    def __init__(self, world: "World", fence: Compare) -> None:
        self._world, self._fence = world, fence
        self.over = False
        self._coordinator: Coordinator | None = None
        self._cursor = 0
        self._inbox: deque[Event] = deque()
        self._commands: deque[Command] = deque()
        self._probes: deque[tuple[NodeRecord, float]] = deque()  # and when a silent one is given up
        self._previous_keys: dict[int, list[str]] = {}

    @staticmethod
    def campaign(world: "World", me: LeaderRecord, lease: int) -> "Term | None":
        """Raises: LeaseExpiredError."""
        key = world.keys.one("leader")
        if not world.transact([Compare(key=key, exists=False)], [Put(key=key, value=encode(me), lease=lease)]):
            return None
        held = world.keyspace.get(key)
        assert held is not None
        return Term(world, Compare(key=key, create_revision=held.create_revision))

    @property
    def coordinator(self) -> Coordinator | None:
        return self._coordinator

    @property
    def wakes_at_s(self) -> float | None:
        """Nothing to wait for while commands are still to be carried out."""
        if self._coordinator is None or self._commands:
            return None
        return self._coordinator.wake_at_s

    def can_act(self) -> bool:
        if self._coordinator is None or self._commands or self._inbox:
            return True
        if self._cursor < self._world.keyspace.revision and self._pull():
            return True
        return self.wakes_at_s is not None and self._world.now_s >= self.wakes_at_s

    def act(self) -> str:
        if self._coordinator is None:
            return self._read()
        if self._commands:
            return self._carry_out(self._commands.popleft())
        event = self._inbox.popleft() if self._inbox else TimePassed()
        commands = self._coordinator.handle(event, self._world.now_s)
        if self._leads():
            self._world.checkers.decided(self._coordinator, commands)
        self._commands.extend(commands)
        return f"handles {_brief(event)}"

    def _leads(self) -> bool:
        """Who has been deposed and does not know it decides nonsense, which is refused when it is to be written."""
        held = self._world.keyspace.get(self._fence.key)
        return held is not None and held.create_revision == self._fence.create_revision

    def _read(self) -> str:
        """As Leader._restore."""
        world = self._world
        snapshot = world.keyspace.get_prefix(world.keys.prefix)
        stored = {kv.key: kv.value for kv in snapshot.kvs}
        if world.keys.one("outcome") in stored:
            self.over = True
            return "finds the job over"
        generation = start = None
        if (raw := stored.get(world.keys.one("generation"))) is not None:
            generation = decoded(GenerationRecord, raw)
            if (raw := stored.get(world.keys.start(generation.number))) is not None:
                start = decoded(StartRecord, raw)
        self._coordinator = Coordinator(world.job, now_s=world.now_s, generation=generation, start=start)
        for kv in sorted(snapshot.kvs, key=lambda kv: ("/nodes/" not in kv.key, kv.key)):
            for event in events(world.keys, kv.key, kv.value):
                self._coordinator.absorb(event, world.now_s)
        self._cursor = snapshot.revision
        commands = self._coordinator.handle(TimePassed(), world.now_s)
        world.checkers.decided(self._coordinator, commands)
        self._commands.extend(commands)
        return "reads the store"

    def _pull(self) -> bool:
        """The next revision with something for the coordinator, into its inbox."""
        world = self._world
        for changes in world.keyspace.history(world.keys.prefix, self._cursor + 1):
            self._cursor = changes[0].revision
            for change in changes:
                self._inbox.extend(events(world.keys, change.kv.key, change.kv.value if change.kind == "put" else None))
            if self._inbox:
                return True
        self._cursor = world.keyspace.revision
        return False

    def _carry_out(self, command: Command) -> str:
        keys = self._world.keys
        match command:
            case WriteGeneration(record):
                forgotten = self._forget(record)
                operations: list[Operation] = [Put(key=keys.one("generation"), value=encode(record)), *forgotten]
                return self._write(operations, f"generation {record.number} ({record.cause}: {record.reason})")
            case WriteStart(record):
                layout = record.plan.describe() if record.plan is not None else "none"
                text = f"start {record.generation} ({record.action}, step {record.version.step}, {layout})"
                return self._write([Put(key=keys.start(record.generation), value=encode(record))], text)
            case WriteOutcome(record):
                done = self._write([Put(key=keys.one("outcome"), value=encode(record))], f"{record.result}")
                self.over = True
                return f"{done}: {record.reason}"
            case ReleaseDrain(record):
                return self._write([Put(key=keys.drain(record.node), value=encode(record))], f"releases {record.node}")
            case ProbeNode(record):
                self.ask_after(record)
                return f"probes {record.node}"
            case EvictNode(record, reason):
                return self._evict(record, reason)

    def _forget(self, record: GenerationRecord) -> list[Operation]:
        """As Leader._forget."""
        keys, number = self._world.keys, record.number
        nodes: set[NodeId] = {ref.slot.node for ref in record.members}
        mine = [keys.start(number)]
        mine += [key for node in sorted(nodes) for key in (keys.ack(number, node), keys.suspect(number, node))]
        self._previous_keys[number] = mine
        return [Delete(key=key) for key in self._previous_keys.pop(number - 2, [])]

    def _write(self, operations: Sequence[Operation], text: str) -> str:
        if not self._world.transact([self._fence], operations):
            self.over = True
            return f"leads no more, {text} is not written"
        return f"writes {text}"

    def _evict(self, record: NodeRecord, reason: str) -> str:
        held = self._world.keyspace.get(self._world.keys.node(record.node))
        if held is None or decoded(NodeRecord, held.value).incarnation != record.incarnation:
            return f"{record.node} is gone already"
        self._world.revoke(held.lease)
        return f"evicts {record.node}: {reason}"

    def ask_after(self, record: NodeRecord) -> None:
        self._probes.append((record, self._world.now_s + self._world.job.probe_s))

    def can_probe(self) -> bool:
        return any(self._is_answered(record, until_s) for record, until_s in self._probes)

    @property
    def probes_until_s(self) -> float | None:
        return min((until_s for _, until_s in self._probes), default=None)

    def probe(self) -> str:
        """The first probe that is answered, or refused, or given up."""
        found = next(entry for entry in self._probes if self._is_answered(*entry))
        self._probes.remove(found)
        record, _ = found
        if self._world.is_refused(record):
            return self._evict(record, "its agent is gone")
        workers = self._world.alive_at(record)
        self._inbox.append(ProbeAnswered(record.node, record.incarnation, workers))
        return f"{record.node} {'is silent' if workers is None else 'answers'}"

    def _is_answered(self, record: NodeRecord, until_s: float) -> bool:
        world = self._world
        return world.is_refused(record) or world.alive_at(record) is not None or world.now_s >= until_s


def _brief(event: Event) -> str:
    return type(event).__name__

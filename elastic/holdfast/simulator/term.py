"""One term of leadership: holdfast.agent.leading without asyncio, around the real Coordinator.

An action is one write, one event or one answer, so that anything can happen between a decision and what it causes.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.control.coordinator import Coordinator
from holdfast.control.litter import BATCH_MAX, Litter
from holdfast.errors import StoreUnavailableError
from holdfast.model.commands import (
    Command,
    CommitCheckpoint,
    EvictNode,
    ProbeNode,
    ReleaseDrain,
    WriteGeneration,
    WriteOutcome,
    WriteStart,
)
from holdfast.model.events import Event, NodeRefused, ProbeAnswered, TimePassed
from holdfast.model.ids import NodeId
from holdfast.model.records import DrainRecord, GenerationRecord, LeaderRecord, NodeRecord, StartRecord
from holdfast.model.wire import encode
from holdfast.ports.store import Compare, Delete, Operation, Put
from holdfast.simulator.decoding import decoded, events
from holdfast.simulator.follower import Change, Follower
from holdfast.simulator.library import Library
from holdfast.simulator.network import Channel, Clock

if TYPE_CHECKING:
    from holdfast.simulator.world import World


# Of events that are there at once, how many are taken together: each further one with this probability.
_TOGETHER = 0.5


@dataclass(frozen=True, slots=True)
class Probe:
    """A question on its way. World time: answered no sooner than `from_s`, given up at `until_s`."""

    record: NodeRecord
    from_s: float
    until_s: float


class Term:
    """From winning the leader key until a write is refused or the job is over."""

    def __init__(self, world: "World", node: NodeId, clock: Clock, fence: Compare) -> None:
        self._world, self._node, self._clock, self._fence = world, node, clock, fence
        self.over = False
        self._coordinator: Coordinator | None = None
        self._follower = Follower(world.store, world.keys, node)
        self._calls = Channel()
        self._inbox: deque[Event] = deque()
        self._commands: deque[Command] = deque()
        self._probes: list[Probe] = []
        self._litter = Litter(world.keys)
        self._generation_revision = 0
        self.library = Library(world, self)

    @staticmethod
    def campaign(world: "World", clock: Clock, me: LeaderRecord, lease: int) -> "Term | None":
        """Raises: LeaseExpiredError, StoreUnavailableError."""
        key, store = world.keys.one("leader"), world.store
        store.transact([Compare(key=key, exists=False)], [Put(key=key, value=encode(me), lease=lease)], by=me.node)
        held = store.get(key, by=me.node)
        # Its own key may stand there from an attempt whose answer was lost.
        if held is None or held.lease != lease:
            return None
        return Term(world, me.node, clock, Compare(key=key, create_revision=held.create_revision))

    @property
    def coordinator(self) -> Coordinator | None:
        return self._coordinator

    @property
    def _now_s(self) -> float:
        return self._clock.read(self._world.now_s)

    @property
    def _wakes_at_s(self) -> float | None:
        """In the world's time. Nothing to wait for while commands are still to be carried out."""
        if self._coordinator is None or self._commands:
            return None
        at_s = self._coordinator.wake_at_s
        return None if at_s is None else self._clock.when(at_s)

    def deadlines(self) -> Iterable[float | None]:
        yield self._wakes_at_s
        yield self._calls.ready_at_s
        yield self.library.calls.ready_at_s
        yield self._follower.channel.ready_at_s
        for probe in self._probes:
            yield probe.from_s
            yield probe.until_s

    def can_act(self) -> bool:
        now_s = self._world.now_s
        if self._coordinator is None or self._follower.behind:
            return self._follower.can_read(now_s)
        if self._commands:
            asks = isinstance(self._commands[0], ProbeNode)
            return asks or (now_s >= self._calls.ready_at_s and self._world.store.hears(self._node))
        if self._inbox or self._pulls_more():
            return True
        if self._follower.behind:
            return self._follower.can_read(now_s)
        return self._wakes_at_s is not None and now_s >= self._wakes_at_s

    def act(self) -> str:
        """Raises: StoreUnavailableError: the term is over for that."""
        if self._coordinator is None:
            return self._read()
        if self._follower.behind:
            return self._catch_up()
        if self._commands:
            return self._carry_out()
        event = self._inbox.popleft() if self._inbox else TimePassed()
        together = self._close_together(event)
        for other in together[:-1]:
            self._world.coverage.handled(self._world.coverage.state_of(self._coordinator), other, ())
            self._coordinator.absorb(other, self._now_s)
        self._handle(together[-1])
        return f"handles {', '.join(type(other).__name__ for other in together)}"

    def _close_together(self, event: Event) -> list[Event]:
        """As many of those that are there at once as have arrived by then."""
        together = [event]
        while (self._inbox or self._pulls_more()) and self._world.network.random.random() < _TOGETHER:
            together.append(self._inbox.popleft())
        return together

    def _pulls_more(self) -> bool:
        return self._follower.can_watch(self._world.now_s) and self._pull()

    def _handle(self, event: Event) -> None:
        assert self._coordinator is not None
        state = self._world.coverage.state_of(self._coordinator)
        commands = self._coordinator.handle(event, self._now_s)
        self._world.coverage.handled(state, event, commands)
        if self._leads():
            self._world.checkers.decisions.made(self._coordinator, commands)
        self._commands.extend(commands)

    def _leads(self) -> bool:
        """Who has been deposed and does not know it decides nonsense, which is refused when it is to be written."""
        held = self._world.keyspace.get(self._fence.key)
        return held is not None and held.create_revision == self._fence.create_revision

    def _read(self) -> str:
        """As Leader._restore."""
        world = self._world
        try:
            snapshot = self._follower.read(world.now_s)
        except StoreUnavailableError as error:
            return f"reads the store: {error}"
        stored = {kv.key: kv for kv in snapshot.kvs}
        if world.keys.one("outcome") in stored:
            self.over = True
            return "finds the job over"
        generation = start = None
        if (held := stored.get(world.keys.one("generation"))) is not None:
            generation, self._generation_revision = decoded(GenerationRecord, held.value), held.mod_revision
            if (held := stored.get(world.keys.start(generation.number))) is not None:
                start = decoded(StartRecord, held.value)
        self._coordinator = Coordinator(world.job, now_s=self._now_s, generation=generation, start=start)
        for kv in sorted(snapshot.kvs, key=lambda kv: ("/nodes/" not in kv.key, kv.key)):
            self._litter.seen(kv.key, deleted=False)
            for event in events(world.keys, kv.key, kv.value):
                self._coordinator.absorb(event, self._now_s)
        self._handle(TimePassed())
        return "reads the store"

    def _catch_up(self) -> str:
        try:
            changes = self._follower.catch_up(self._world.now_s)
        except StoreUnavailableError as error:
            return f"reads the store anew: {error}"
        self._see(changes)
        return "reads the store anew"

    def _pull(self) -> bool:
        """The next revision with something for the coordinator, into its inbox."""
        keys = self._world.keys
        while found := self._follower.peek():
            if any(events(keys, e.kv.key, e.kv.value if e.kind == "put" else None) for e in found):
                self._see(self._follower.take(found, self._world.now_s))
                return True
            self._see(self._follower.skip(found))
        return False

    def _see(self, changes: Iterable[Change]) -> None:
        for key, kv in changes:
            self._litter.seen(key, deleted=kv is None)
            self._inbox.extend(events(self._world.keys, key, kv.value if kv is not None else None))

    def _carry_out(self) -> str:
        """The first command, again and again until there is an answer: under its fence that does no harm."""
        command, store, now_s = self._commands[0], self._world.store, self._world.now_s
        if not isinstance(command, ProbeNode):
            store.pause(self._calls, now_s)
        try:
            told = self._perform(command)
        except StoreUnavailableError as error:
            store.back_off(self._calls, now_s)
            return f"{_words(command)}: {error}"
        self._commands.popleft()
        return "leads no more" if self.over and not isinstance(command, WriteOutcome) else told

    def _perform(self, command: Command) -> str:
        """Raises: StoreUnavailableError: whether it was done is not known."""
        keys, told = self._world.keys, _words(command)
        match command:
            case ProbeNode(record):
                self.ask_after(record)
            case EvictNode(record):
                return told if self._evict(record) else f"does not evict {record.node}, which is gone or another by now"
            case WriteGeneration(record):
                self._write_generation(command)
            case WriteStart(record):
                self._write_once(keys.start(record.generation), encode(record))
            case WriteOutcome(record):
                self._write_once(keys.one("outcome"), encode(record))
                self.over = True
            case CommitCheckpoint():
                self.library.wants(command)
            case ReleaseDrain(record):
                # One that was taken back in this moment stays so.
                drain = keys.drain(record.node)
                self.write([Put(key=drain, value=encode(record))], Compare(key=drain, exists=True))
        return told

    def _write_generation(self, command: WriteGeneration) -> None:
        """As Leader._write_generation and Leader._sweep, in one transaction."""
        keys, record = self._world.keys, command.record
        key = keys.one("generation")
        operations: list[Operation] = [Put(key=key, value=encode(record))]
        operations += [Delete(key=keys.pardon(node)) for node in command.pardons[:BATCH_MAX]]
        operations += [Delete(key=keys.drain(drain.node)) for drain in command.drains if self._is_unchanged(drain)]
        operations += [Delete(key=key) for key in self._litter.due(record.number)]
        written = self.write(operations, Compare(key=key, mod_revision=self._generation_revision))
        held = self._world.keyspace.get(key)
        if held is not None and (written or held.value == encode(record)):  # it was done, and the answer lost
            self._generation_revision = held.mod_revision
        else:
            self.over = True

    def _is_unchanged(self, drain: DrainRecord) -> bool:
        held = self._world.keyspace.get(self._world.keys.drain(drain.node))
        return held is not None and held.value == encode(drain)

    def _write_once(self, key: str, value: bytes) -> None:
        if not self.write([Put(key=key, value=value)], Compare(key=key, exists=False)):
            held = self._world.keyspace.get(key)
            self.over = self.over or held is None or held.value != value

    def write(self, operations: Sequence[Operation], *compares: Compare) -> bool:
        """Fenced. False: one of `compares` does not hold, or it leads no more."""
        written = self._world.store.transact([self._fence, *compares], operations, by=self._node)
        self.over = self.over or not (written or self._leads())
        return written

    def _evict(self, record: NodeRecord) -> bool:
        store = self._world.store
        held = store.get(self._world.keys.node(record.node), by=self._node)
        if held is None or decoded(NodeRecord, held.value).incarnation != record.incarnation:
            return False
        if not self.write([Delete(key=held.key)], Compare(key=held.key, lease=held.lease)):
            return False
        # What is left on that lease goes when it ends, if not now.
        with suppress(StoreUnavailableError):
            store.revoke(held.lease, by=self._node)
        return True

    def hear(self, event: Event) -> None:
        """Of its own doings."""
        self._inbox.append(event)

    def ask_after(self, record: NodeRecord) -> None:
        network, now_s = self._world.network, self._world.now_s
        until_s = now_s + self._world.job.probe_s
        lost = network.happens(network.weather.probes_lost)
        self._probes.append(Probe(record, until_s if lost else now_s + network.delay_s(), until_s))

    def can_probe(self) -> bool:
        return any(self._is_answered(probe) for probe in self._probes)

    def probe(self) -> str:
        """The first probe that is answered, or refused, or given up. Raises: StoreUnavailableError."""
        found = next(probe for probe in self._probes if self._is_answered(probe))
        self._probes.remove(found)
        record, network = found.record, self._world.network
        lost = found.from_s >= found.until_s
        if not lost and self._world.is_refused(self._node, record):
            self._inbox.append(NodeRefused(record.node, record.incarnation))
            return f"{record.node} refuses"
        workers = None if lost else self._world.alive_at(self._node, record)
        asked = tuple(ref.worker for ref in record.workers)
        answer = ProbeAnswered(record.node, record.incarnation, workers, asked)
        self._inbox.extend([answer] * (2 if network.happens(network.weather.probes_doubled) else 1))
        return f"{record.node} {'is silent' if workers is None else 'answers'}"

    def _is_answered(self, probe: Probe) -> bool:
        world, record = self._world, probe.record
        if world.now_s >= probe.until_s:
            return True
        if world.now_s < probe.from_s:
            return False
        return world.is_refused(self._node, record) or world.alive_at(self._node, record) is not None


def _words(command: Command) -> str:
    match command:
        case ProbeNode(record):
            return f"probes {record.node}"
        case EvictNode(record, reason):
            return f"evicts {record.node}: {reason}"
        case WriteGeneration(record):
            return f"writes generation {record.number} ({record.cause}: {record.reason})"
        case WriteStart(record):
            layout = record.plan.describe() if record.plan is not None else "none"
            return f"writes start {record.generation} ({record.action}, step {record.version.step}, {layout})"
        case WriteOutcome(record):
            return f"writes {record.result}: {record.reason}"
        case ReleaseDrain(record):
            return f"releases {record.node}"
        case CommitCheckpoint(version):
            return f"commits the checkpoint of step {version.step}"

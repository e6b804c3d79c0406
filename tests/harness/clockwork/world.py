"""The world: the store, all agents and workers, the scheduler, virtual time, and what was seen.

Time moves a little with every action, and jumps to the next deadline when nothing can happen before it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from harness.clockwork.agent import Agent
from harness.clockwork.checkers import Checkers
from harness.clockwork.choosing import Chooser, Lane
from harness.clockwork.weights import Reference, State
from harness.clockwork.wires import ViolationError, Wires
from harness.clockwork.worker import Phase, Worker
from holdfast.control.job import Job
from holdfast.model.ids import NodeId, SlotId, WorkerId
from holdfast.model.messages import Start
from holdfast.model.records import Commit, Keys, NodeRecord, OutcomeRecord
from holdfast.ports.store import Compare, Operation
from holdfast.stores.keyspace import Keyspace

_TICK_S = 0.001
# The watchdog of a real agent finds a worker that hangs; here after this long.
_HANG_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Dials:
    """What the data plane is like. Each may be so or so in reality."""

    forming_breaks: bool = False  # a peer lost while groups form is noticed by the others, not only by agents
    contacts: bool = False  # agents notice at once that the leading agent died, and it that they did
    rough_closings: int = 0  # how often a peer that ends as it should may break one that still waits for data
    salted: bool = False  # sums depend on the layout: reduction allreduce


@dataclass(slots=True)
class Watchdog:
    """Of a worker that hangs."""

    worker: Worker
    barks_at_s: float


@dataclass(slots=True)
class World:
    """Mutable; one job. `transcript`: what happened, as (time, lane, what it did)."""

    job: Job
    chooser: Chooser
    dials: Dials = field(default_factory=Dials)
    lease_ttl_s: float = 3.0
    keyspace: Keyspace = field(default_factory=Keyspace)
    keys: Keys = field(default_factory=lambda: Keys(job="job"))
    now_s: float = 0.0
    agents: dict[NodeId, Agent] = field(default_factory=dict)
    transcript: list[tuple[float, str, str]] = field(default_factory=list)
    outcome: OutcomeRecord | None = None
    user_failures: set[tuple[SlotId, int]] = field(default_factory=set)
    deaths: Counter[tuple[SlotId, Phase, int]] = field(default_factory=Counter)  # that a phase of a step still brings
    forming_breaks: bool = field(init=False)
    rough_closings: int = field(init=False)
    checkers: Checkers = field(init=False)
    _lanes: list[Lane] = field(default_factory=list)
    _all_agents: list[Agent] = field(default_factory=list)  # also those whose name another has by now
    _wires: dict[int, Wires] = field(default_factory=dict)
    _workers: dict[WorkerId, Worker] = field(default_factory=dict)
    _watchdogs: list[Watchdog] = field(default_factory=list)
    _lives: int = 0

    def __post_init__(self) -> None:
        self.forming_breaks, self.rough_closings = self.dials.forming_breaks, self.dials.rough_closings
        self.checkers = Checkers(self, Reference(self.job.layer_count, self.job.blocks, self.job.steps))

    # Running.

    def step(self) -> bool:
        """One action, or one jump of time. False when nothing can ever happen again."""
        lane = self.chooser.choose(self._lanes)
        if lane is None:
            return self.skip()
        self.now_s += _TICK_S
        self.transcript.append((self.now_s, lane.name, "..."))
        self.transcript[-1] = (self.now_s, lane.name, lane.run())
        self._tidy()
        return True

    def skip(self) -> bool:
        """Time goes to the next deadline; False if there is none."""
        due_s = min((at_s for at_s in self._deadlines() if at_s > self.now_s), default=None)
        if due_s is None:
            return False
        self.now_s = due_s
        self.transcript.append((self.now_s, "time", "passes"))
        return True

    @property
    def is_over(self) -> bool:
        return self.outcome is not None and all(agent.dead for agent in self.agents.values())

    def _deadlines(self) -> Iterator[float]:
        for agent in self._all_agents:
            for at_s in (agent.expires_at_s, agent.thaws_at_s):
                if at_s is not None:
                    yield at_s
            if agent.active:
                term = agent.term
                for at_s in (
                    agent.member.wake_at_s if not agent.left else None,
                    agent.retries_at_s,
                    *((term.wakes_at_s, term.probes_until_s) if term is not None else ()),
                ):
                    if at_s is not None:
                        yield at_s
        yield from (dog.barks_at_s for dog in self._watchdogs if dog.worker.alive)

    def _tidy(self) -> None:
        """Forget the lanes of what is gone for good."""
        if len(self.transcript) % 64 == 0:
            self._lanes = [lane for lane in self._lanes if not lane.over()]

    # Who is there.

    def add_agent(self, name: str, slots: int) -> Agent:
        node = NodeId(name)
        self._lives += 1
        agent = self.agents[node] = Agent(self, node, slots, life=self._lives)
        self._all_agents.append(agent)

        def over() -> bool:
            return agent.dead and agent.expires_at_s is None

        for what, ready, run in (
            ("watch", agent.can_watch, agent.watch),
            ("report", agent.can_report, agent.report),
            ("wake", agent.can_wake, agent.wake),
            ("lead", agent.can_lead, agent.lead),
            ("campaign", agent.can_campaign, agent.campaign),
            ("probe-leader", agent.can_probe_leader, agent.probe_leader),
            ("renew", agent.can_renew, agent.renew),
            ("lease", agent.can_expire, agent.expire),
            ("thaw", agent.can_thaw, agent.thaw),
            ("leave", agent.can_leave, agent.leave),
        ):
            self._lanes.append(Lane(f"{name} {what}", ready, run, over))

        def can_probe() -> bool:
            return agent.active and agent.term is not None and agent.term.can_probe()

        def probe() -> str:
            assert agent.term is not None
            return agent.term.probe()

        self._lanes.append(Lane(f"{name} probe", can_probe, probe, over))
        return agent

    def add_worker(self, agent: Agent, worker: Worker) -> Worker:
        name = str(worker.slot)
        self._workers[worker.worker] = worker

        def over() -> bool:
            return not worker.alive and (agent.dead or not worker.to_agent)

        for what, ready, run in (
            ("read", worker.can_read, worker.read),
            ("train", worker.can_train, worker.train),
            ("break", worker.can_break, worker.break_off),
            ("hear", lambda: agent.can_hear(worker), lambda: agent.hear(worker)),
            ("orphan", lambda: agent.dead and worker.alive and not worker.frozen, lambda: _end(worker)),
        ):
            self._lanes.append(Lane(f"{name} {what}", ready, run, over))
        return worker

    def workers(self) -> Iterator[Worker]:
        """All live ones."""
        return (worker for worker in self._workers.values() if worker.alive)

    def worker(self, name: WorkerId) -> Worker | None:
        worker = self._workers.get(name)
        return worker if worker is not None and worker.alive else None

    def process(self, name: WorkerId) -> Worker:
        """Also one that is dead."""
        return self._workers[name]

    def is_refused(self, record: NodeRecord) -> bool:
        """Whether a probe of that agent is refused, or answered by another incarnation."""
        agent = self.agents.get(record.node)
        if agent is None or agent.dead:
            return True
        return not agent.frozen and agent.member.identity.incarnation != record.incarnation

    def alive_at(self, record: NodeRecord) -> tuple[WorkerId, ...] | None:
        """What the agent answers; None while it is silent."""
        agent = self.agents[record.node]
        return None if agent.frozen else tuple(ref.worker for ref in agent.member.live_workers)

    def contact_broken(self, gone: Agent) -> None:
        """Its connections to other agents are closed."""
        if self.dials.contacts:
            for agent in self.agents.values():
                if agent is not gone and not agent.dead:
                    agent.contact_lost(gone.node)

    # The store.

    def transact(self, compares: Sequence[Compare], then: Sequence[Operation]) -> bool:
        before = self.keyspace.revision
        succeeded = self.keyspace.transact(compares, then).succeeded
        self._written(before)
        return succeeded

    def write(self, operations: Sequence[Operation]) -> None:
        self.transact([], operations)

    def revoke(self, lease: int) -> None:
        before = self.keyspace.revision
        self.keyspace.revoke(lease)
        self._written(before)

    def is_leased(self, lease: int) -> bool:
        return lease in self.keyspace._leases

    def _written(self, before: int) -> None:
        for changes in self.keyspace.history(self.keys.prefix, before + 1):
            for change in changes:
                self.checkers.written(change)

    # What workers need of it.

    @property
    def steps(self) -> int:
        return self.job.steps

    def wires(self, message: Start) -> Wires:
        start = message.start
        wires = self._wires.get(start.generation)
        if wires is None:
            salt = start.generation if self.dials.salted else 0
            wires = self._wires[start.generation] = Wires(start, salt)
        if wires.start != start:
            raise ViolationError(f"generation {start.generation} has two starts")
        return wires

    def is_served(self, message: Start, slot: SlotId) -> bool:
        """Whether the process that serves the generation's c10d store lives."""
        plan, transfers = message.start.plan, message.start.transfers
        host = plan.slots[0] if plan is not None else transfers[0].source
        return any(ref.slot == host and self.worker(ref.worker) for ref in message.generation.members)

    def voted(self, wires: Wires) -> None:
        self.checkers.voted(wires)

    def committed(self, worker: Worker, commit: Commit) -> None:
        self.checkers.committed(worker, commit)

    def finished(self, layer: int, state: State) -> None:
        self.checkers.finished(layer, state)

    def user_code_fails(self, slot: SlotId, step: int) -> bool:
        return (slot, step) in self.user_failures

    def dies(self, slot: SlotId, phase: Phase, step: int) -> bool:
        key = (slot, phase, step)
        if not self.deaths[key]:
            return False
        self.deaths[key] -= 1
        return True

    def hang(self, worker: Worker, *, waiting: bool) -> None:
        """`waiting`: it seems to wait for others, so that its agent will not kill it for that."""
        worker.hung = True
        dog = Watchdog(worker, self.now_s + _HANG_S)
        self._watchdogs.append(dog)
        agent = self.agents[worker.slot.node]
        self._lanes.append(
            Lane(
                f"{worker.slot} watchdog",
                lambda: dog in self._watchdogs and worker.alive and agent.active and self.now_s >= dog.barks_at_s,
                lambda: self._bark(dog, agent, waiting=waiting),
            )
        )

    def _bark(self, dog: Watchdog, agent: Agent, *, waiting: bool) -> str:
        if not waiting or dog.worker.phase is Phase.WARMING:
            return _end(dog.worker)
        self._watchdogs.remove(dog)
        return agent.waits(dog.worker)

    def tell(self) -> str:
        """The transcript, to be read."""
        return "\n".join(
            f"{n:5d} {at_s:8.3f}  {name:20s} {what}" for n, (at_s, name, what) in enumerate(self.transcript)
        )


def _end(worker: Worker) -> str:
    worker.die()
    return "ends"

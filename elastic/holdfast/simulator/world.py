"""The world: the store, all agents and workers, the scheduler, virtual time, and what was seen.

Time moves a little with every action, and jumps to the next deadline when nothing can happen before it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from holdfast.control.job import Job
from holdfast.model.ids import NodeId, SlotId, WorkerId
from holdfast.model.keys import Keys
from holdfast.model.messages import Start
from holdfast.model.records import Commit, NodeRecord, OutcomeRecord, Version
from holdfast.simulator.agent import Agent
from holdfast.simulator.buffers import Storing
from holdfast.simulator.checkers import Checkers
from holdfast.simulator.choosing import Chooser, Lane
from holdfast.simulator.coverage import Coverage
from holdfast.simulator.network import Network, Weather
from holdfast.simulator.storage import Storage
from holdfast.simulator.storeside import StoreSide
from holdfast.simulator.surroundings import Phase
from holdfast.simulator.weights import Reference, State
from holdfast.simulator.wires import ViolationError, Wires
from holdfast.simulator.worker import Worker
from holdfast.stores.keyspace import Keyspace

_TICK_S = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Dials:
    """What the data plane is like. Each may be so or so in reality."""

    forming_breaks: bool = False  # a peer lost while groups form is noticed by the others, not only by agents
    contacts: bool = False  # agents notice at once that the leading agent died, and it that they did
    rough_closings: int = 0  # how often a peer that ends as it should may break one that still waits for data
    salted: bool = False  # sums depend on the layout: reduction allreduce
    copies_fail: float = 0.0  # share of a worker's snapshots that come to nothing
    uploads_fail: float = 0.0  # share of the blobs that the storage does not take


@dataclass(slots=True)
class Later:
    """What is to happen by itself at a time: a cut that heals, a node that comes back."""

    at_s: float
    sentence: str
    happen: Callable[[], object]


@dataclass(slots=True)
class World:
    """Mutable; one job. `transcript`: what happened, as (time, lane, what it did)."""

    job: Job
    chooser: Chooser
    dials: Dials = field(default_factory=Dials)
    weather: Weather = field(default_factory=Weather)
    seed: int = 0
    storing: Storing = field(default_factory=Storing)
    storage: Storage = field(default_factory=Storage)
    lease_ttl_s: float = 3.0
    keys: Keys = field(default_factory=lambda: Keys(job="job"))
    now_s: float = 0.0
    agents: dict[NodeId, Agent] = field(default_factory=dict)
    transcript: list[tuple[float, str, str]] = field(default_factory=list)
    outcome: OutcomeRecord | None = None
    user_failures: set[tuple[SlotId, int]] = field(default_factory=set)
    deaths: Counter[tuple[SlotId, Phase, int]] = field(default_factory=Counter)  # that a phase of a step still brings
    coverage: Coverage = field(default_factory=Coverage)
    disturbed_s: float = 0.0  # when something last came from outside: a fault, its end, a node that came in
    forming_breaks: bool = field(init=False)
    rough_closings: int = field(init=False)
    network: Network = field(init=False)
    store: StoreSide = field(init=False)
    checkers: Checkers = field(init=False)
    _store_rate: float = field(init=False)
    _lanes: list[Lane] = field(default_factory=list)
    _all_agents: list[Agent] = field(default_factory=list)  # also those whose name another has by now
    _agenda: list[Later] = field(default_factory=list)
    _wires: dict[int, Wires] = field(default_factory=dict)
    _workers: dict[WorkerId, Worker] = field(default_factory=dict)
    _owners: dict[WorkerId, Agent] = field(default_factory=dict)
    _lives: int = 0

    def __post_init__(self) -> None:
        self.forming_breaks, self.rough_closings = self.dials.forming_breaks, self.dials.rough_closings
        self.checkers = Checkers(self, Reference(self.job.layer_count, self.job.blocks, self.job.steps))
        self.network = Network(self.weather, self.seed)
        self.store = StoreSide(self.network, self.checkers.written)
        self._store_rate = self.network.clock().rate
        self._lanes.append(Lane("agenda", self._is_due, self._happen))

    @property
    def keyspace(self) -> Keyspace:
        return self.store.keyspace

    @property
    def lease_lasts_s(self) -> float:
        """A lease's time to live, by the store's clock, in the world's time."""
        return self.lease_ttl_s / self._store_rate

    def since_renewal_s(self) -> float:
        """How long ago who falls silent now has renewed its lease, which it does three times in its life."""
        return self.network.random.random() * self.lease_ttl_s / 3 if self.weather.delay_s else 0.0

    # Running.

    def act(self) -> bool:
        """One action. False when nothing can happen before time passes."""
        lane = self.chooser.choose(self._lanes)
        if lane is None:
            return False
        self.now_s += _TICK_S
        self.transcript.append((self.now_s, lane.name, "..."))
        at = len(self.transcript) - 1
        self.transcript[at] = (self.now_s, lane.name, lane.run())
        if self.storing.is_on:
            self.checkers.stored.acted()
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
            yield from (at_s for at_s in agent.deadlines() if at_s is not None)
        yield from (at_s for worker in self.workers() if (at_s := self._barks_at_s(worker)) is not None)
        yield from (later.at_s for later in self._agenda)
        for worker in self.workers():
            yield from worker.deadlines()

    def _tidy(self) -> None:
        """Forget the lanes of what is gone for good."""
        if len(self.transcript) % 64 == 0:
            self._lanes = [lane for lane in self._lanes if not lane.over()]

    # Who is there.

    def add_agent(self, name: str, slots: int) -> Agent:
        """A new agent, on a machine that is up."""
        node = NodeId(name)
        self.network.light(name)
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
            ("probe-leader", agent.standby.can_probe_leader, agent.standby.probe_leader),
            ("renew", agent.can_renew, agent.renew),
            ("lease", agent.can_expire, agent.expire),
            ("thaw", agent.can_thaw, agent.thaw),
            ("leave", agent.can_leave, agent.leave),
            ("probe", agent.can_probe, agent.probe),
            ("probe-peers", agent.standby.can_probe, agent.standby.probe),
            ("lapse", agent.standby.can_lapse, agent.standby.lapse),
            *self._lanes_of_tiers(agent),
        ):
            self._lanes.append(Lane(f"{name} {what}", ready, run, over))
        return agent

    def _lanes_of_tiers(self, agent: Agent) -> Iterator[tuple[str, Callable[[], bool], Callable[[], str]]]:
        if self.storing.is_on:
            tiers = agent.tiers
            yield "fetch", tiers.can_fetch, tiers.fetch
            yield "pull", tiers.can_pull, tiers.pull
            yield "upload", tiers.can_upload, tiers.upload
            yield "library", agent.can_keep_library, agent.keep_library

    def add_worker(self, agent: Agent, worker: Worker) -> Worker:
        name = str(worker.slot)
        self._workers[worker.worker] = worker
        self._owners[worker.worker] = agent

        def over() -> bool:
            return not worker.alive and (agent.dead or not worker.to_agent)

        for what, ready, run in (
            ("read", worker.can_read, worker.read),
            ("train", worker.can_train, worker.train),
            ("break", worker.can_break, worker.break_off),
            ("hear", lambda: agent.can_hear(worker), lambda: agent.hear(worker)),
            ("orphan", lambda: agent.dead and worker.alive, lambda: _end(worker)),
            ("watchdog", lambda: self._is_overdue(agent, worker), lambda: self._bark(agent, worker)),
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

    def is_refused(self, by: NodeId, record: NodeRecord) -> bool:
        """Whether a probe of that agent is refused, or answered by another incarnation."""
        if not self.network.joins(by, record.node):
            return False
        agent = self.agents.get(record.node)
        if agent is None or agent.dead:
            return True
        another = agent.member.identity.incarnation != record.incarnation
        workers = {ref.worker for ref in agent.member.live_workers}
        return not agent.frozen and another and workers.isdisjoint(ref.worker for ref in record.workers)

    def is_orphan(self, worker: WorkerId) -> bool:
        """Whether its agent is dead; the kernel ends it in a moment."""
        return self._owners[worker].dead

    def may_vote(self, worker: WorkerId, generation: int) -> bool:
        """What worker.pulse reads: its agent's permit."""
        return self._owners[worker].standby.permits(generation)

    def alive_at(self, by: NodeId, record: NodeRecord) -> tuple[WorkerId, ...] | None:
        """What the agent answers; None while it is silent."""
        agent = self.agents.get(record.node)
        if agent is None or not agent.active or not self.network.joins(by, record.node):
            return None
        return tuple(ref.worker for ref in agent.member.live_workers)

    def contact_broken(self, gone: Agent) -> None:
        """Its connections to other agents are closed."""
        if self.dials.contacts:
            for agent in self.agents.values():
                if agent is not gone and not agent.dead and self.network.is_open(gone.node, agent.node):
                    agent.contact_lost(gone.node)

    # What comes from outside.

    def later(self, delay_s: float, sentence: str, happen: Callable[[], object]) -> None:
        self._agenda.append(Later(self.now_s + delay_s, sentence, happen))

    def disturb(self, sentence: str, strike: Callable[[], object]) -> None:
        """A fault, or the end of one. Leases follow: who can renew by now, who cannot any more."""
        self.disturbed_s = self.now_s
        self.transcript.append((self.now_s, "fault", sentence))
        strike()
        for agent in self._all_agents:
            agent.fall_silent()

    @property
    def is_calm(self) -> bool:
        """Nothing of what was done to it is still in force."""
        return not self._agenda and not any(agent.frozen for agent in self.agents.values())

    def store_returns(self) -> None:
        """After it was away every lease has its full time again (etcd's Promote)."""
        for agent in self._all_agents:
            if agent.silent_since_s is not None:
                agent.silent_since_s = self.now_s

    def _is_due(self) -> bool:
        return any(self.now_s >= later.at_s for later in self._agenda)

    def _happen(self) -> str:
        later = min(self._agenda, key=lambda later: later.at_s)
        self._agenda.remove(later)
        self.disturb(later.sentence, later.happen)
        return "as announced"

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
        there = any(ref.slot == host and self.worker(ref.worker) for ref in message.generation.members)
        return there and self.network.joins(host.node, slot.node)

    @property
    def is_connected(self) -> bool:
        """Everybody with everybody."""
        return self.network.is_whole

    def hears(self, slot: SlotId, other: SlotId) -> bool:
        """Whether what `other` sent reaches `slot`."""
        return self.network.is_whole or self.network.is_open(other.node, slot.node)

    def joins(self, slot: SlotId, other: SlotId) -> bool:
        return self.network.is_whole or self.network.joins(other.node, slot.node)

    def breaks_at_s(self, slot: SlotId, other: SlotId) -> float | None:
        """When a connection between them is reset; None while it holds or just hangs."""
        return None if self.network.is_whole else self.network.breaks_at_s(slot.node, other.node)

    def voted(self, wires: Wires) -> None:
        self.checkers.voted(wires)

    def committed(self, worker: Worker, commit: Commit) -> None:
        self.checkers.committed(worker, commit)

    def finished(self, layer: int, state: State) -> None:
        self.checkers.finished(layer, state)

    def copy_fails(self) -> bool:
        return self.network.happens(self.dials.copies_fail)

    def restored(self, worker: Worker, layers: Iterable[int]) -> None:
        self.checkers.stored.restored(worker, layers)

    def kept(self, worker: Worker, version: Version) -> None:
        self.checkers.stored.kept(worker, version)

    def overwrites(self, worker: Worker, kept: Version | None) -> None:
        self.checkers.stored.overwrites(worker, kept)

    def user_code_fails(self, slot: SlotId, step: int) -> bool:
        return (slot, step) in self.user_failures

    def dies(self, slot: SlotId, phase: Phase, step: int) -> bool:
        key = (slot, phase, step)
        if not self.deaths[key]:
            return False
        self.deaths[key] -= 1
        return True

    def _barks_at_s(self, worker: Worker) -> float | None:
        return worker.barks_at_s(self._owners[worker.worker].generation)

    def _is_overdue(self, agent: Agent, worker: Worker) -> bool:
        at_s = self._barks_at_s(worker)
        return at_s is not None and self.now_s >= at_s and worker.alive and agent.active

    def _bark(self, agent: Agent, worker: Worker) -> str:
        """The agent's watchdog finds a worker that has been silent for too long."""
        if worker.hung and (not worker.seems_to_wait or worker.phase is Phase.WARMING):
            return _end(worker)
        worker.barked(agent.generation)
        return agent.waits(worker)

    def tell(self) -> str:
        """The transcript, to be read."""
        return "\n".join(
            f"{n:5d} {at_s:8.3f}  {name:20s} {what}" for n, (at_s, name, what) in enumerate(self.transcript)
        )


def _end(worker: Worker) -> str:
    worker.die()
    return "ends"

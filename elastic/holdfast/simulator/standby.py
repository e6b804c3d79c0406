"""What a fake agent does when it is on its own: the permit of holdfast.agent.leasing, the probes of .neighbours."""

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from holdfast.errors import StoreUnavailableError
from holdfast.model.ids import NodeId
from holdfast.model.records import LeaderRecord, NodeRecord
from holdfast.simulator.decoding import decoded

if TYPE_CHECKING:
    from holdfast.simulator.agent import Agent
    from holdfast.simulator.world import World


class Standby:
    """Of one agent. `touch` when it renewed its lease, `part` when it cannot any more."""

    def __init__(self, world: "World", agent: "Agent") -> None:
        self._world, self._agent = world, agent
        self._renewed_s: float | None = None  # by its own clock, when it last did; None while it does
        self._lapsed = 0  # newest generation that it may have been left out of
        self._has_lapsed = False
        self._asked: tuple[float, tuple[NodeRecord, ...]] | None = None
        self._leader_probes: deque[tuple[float, float]] = deque()  # when answered, and when given up

    def part(self, since_s: float) -> None:
        """`since_s`: in the world's time."""
        if self._renewed_s is None:
            self._renewed_s = self._agent.clock.read(since_s)

    def touch(self) -> None:
        if self.can_lapse():
            self.lapse()
        self._renewed_s, self._has_lapsed = None, False

    def permits(self, generation: int) -> bool:
        return generation > self._lapsed and not self._is_old()

    def _is_old(self) -> bool:
        return self._renewed_s is not None and self._agent.now_s > self._renewed_s + self._world.job.orphan_s

    def can_lapse(self) -> bool:
        return self._agent.active and not self._has_lapsed and self._is_old()

    def lapse(self) -> str:
        self._has_lapsed = True
        if (generation := self._agent.member.generation) is not None:
            self._lapsed = generation.number
        self._agent.carry_out(self._agent.member.orphaned("no contact to the store"))
        return "stops its workers"

    def ask(self, records: Iterable[NodeRecord]) -> None:
        world, asked = self._world, tuple(records)
        silent = any(self._is_silent(record) for record in asked)
        self._asked = (world.now_s + (world.job.probe_s if silent else world.network.delay_s()), asked)

    def can_probe(self) -> bool:
        return self._agent.active and self._asked is not None and self._world.now_s >= self._asked[0]

    def probe(self) -> str:
        assert self._asked is not None
        silent: set[NodeId] = {record.node for record in self._asked[1] if self._is_silent(record)}
        self._asked = None
        self._agent.carry_out(self._agent.member.peers_probed(silent, self._agent.now_s))
        return f"does not reach {', '.join(sorted(silent)) or 'nobody'}"

    def _is_silent(self, record: NodeRecord) -> bool:
        by = self._agent.node
        return not self._world.is_refused(by, record) and self._world.alive_at(by, record) is None

    def ask_leader(self) -> None:
        world = self._world
        heard = not world.network.happens(world.network.weather.probes_lost)
        given_up_s = world.now_s + world.job.probe_s
        self._leader_probes.append((world.now_s + world.network.delay_s() if heard else given_up_s, given_up_s))

    def can_probe_leader(self) -> bool:
        return self._agent.active and any(self._world.now_s >= at_s for at_s, _ in self._leader_probes)

    def probe_leader(self) -> str:
        """Evicts a leader whose agent is gone; one that is silent may be on the other side of a cut."""
        agent, world = self._agent, self._world
        due = next(entry for entry in self._leader_probes if world.now_s >= entry[0])
        self._leader_probes.remove(due)
        held = agent.leaders.get(world.keys.one("leader"))
        if held is None:
            return "there is no leader"
        leader = decoded(LeaderRecord, held.value)
        node = agent.leaders.get(world.keys.node(leader.node))
        if leader.node == agent.node or node is None:
            return f"{leader.node} is not asked"
        record, heard = decoded(NodeRecord, node.value), due[0] < due[1]
        if not heard or not world.is_refused(agent.node, record):
            if heard and world.alive_at(agent.node, record) is not None:
                return f"{leader.node} lives"
            agent.carry_out(agent.member.contact_lost())
            return f"{leader.node} is silent"
        try:
            world.store.revoke(held.lease, by=agent.node)
        except StoreUnavailableError as error:
            return f"{leader.node} is gone; its eviction: {error}"
        return f"{leader.node} is gone"

    def deadlines(self) -> Iterable[float | None]:
        yield self._asked[0] if self._asked is not None else None
        yield min((at_s for at_s, _ in self._leader_probes), default=None)
        if self._renewed_s is not None and not self._has_lapsed:
            yield self._agent.clock.when(self._renewed_s + self._world.job.orphan_s) + 1e-6

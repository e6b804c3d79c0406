"""Copies between fake nodes: mirror of holdfast.agent.peer_tier and .pulling, by the real rules.

A node follows each peer whose layers it is to hold as well. One action is one question to such a peer, or room made for
one layer, or one layer pulled.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast.model.ids import NodeId
from holdfast.model.plan import Plan
from holdfast.model.records import AgentRef, GenerationRecord, StartRecord, Version
from holdfast.simulator.buffers import Pair, pair
from holdfast.simulator.ram import Copy, Ram
from holdfast.simulator.weights import State
from holdfast_checkpoint.placement import Placement, peer_copies
from holdfast_checkpoint.sparing import (
    FETCHED,
    PEER,
    Spare,
    newest_whole,
    outlives_arrival,
    outlives_change,
    said_to_hold,
    spared_at_arrival,
)

if TYPE_CHECKING:
    from holdfast.simulator.world import World


@dataclass(frozen=True, slots=True)
class Holding:
    """What a peer says that it holds of this node's. `incarnation`: the peer's, as members know it."""

    incarnation: str
    version: Pair
    layers: frozenset[int]


@dataclass(slots=True)
class _Following:
    """Of one source: what it told last, and what of that is still to be pulled."""

    layers: frozenset[int]
    version: Pair | None = None
    kept: Pair | None = None
    left: list[int] = field(default_factory=list)
    has_room: bool = False  # for the first of these


class PeerTier:
    """One an agent."""

    def __init__(
        self,
        world: "World",
        node: NodeId,
        ram: Ram,
        *,
        on_copied: Callable[[], None],
        on_changed: Callable[[], None],
    ) -> None:
        """`on_copied`: a peer holds more of what is here. `on_changed`: there is something else in RAM."""
        self._world, self._node, self._ram = world, node, ram
        self._on_copied, self._on_changed = on_copied, on_changed
        self.kept: Pair | None = None  # as peers are told
        self.copied: dict[NodeId, Holding] = {}
        self._agents: dict[NodeId, AgentRef] = {}
        self._placement = Placement()
        self._followed: dict[NodeId, _Following] = {}
        self._spare: Spare | None = None

    # What a start calls for.

    def place(self, generation: GenerationRecord, start: StartRecord) -> None:
        """Where nobody trains what is there stays, and nothing moves."""
        self._admit(generation.agents)
        self._placement = self._placed(generation, start.plan) if start.plan is not None else Placement()
        self._follow()
        self._spare = None
        if start.spare is not None:
            self._spare = Spare(version=pair(start.spare), generation=start.generation)
        if start.kept is not None:
            self._keep(pair(start.kept))

    def keep(self, kept: Version) -> None:
        """The version that nobody gives up: a vote has shown it to be whole."""
        self._spare = None
        self._keep(pair(kept))

    def is_copied(self, version: Version, layers: Collection[int]) -> bool:
        """Whether all who are to hold copies of these layers hold them."""
        for target, wanted in self._placement.pulled_from(self._node).items():
            held = self.copied.get(NodeId(target))
            there = held.layers if held is not None and held.version == pair(version) else frozenset[int]()
            if any(layer in layers and layer not in there for layer in wanted):
                return False
        return True

    def _admit(self, agents: Iterable[AgentRef]) -> None:
        """What others said that they hold is forgotten."""
        before = {(agent.node, agent.incarnation) for agent in self._agents.values()}
        self._agents = {agent.node: agent for agent in agents}
        gone = before - {(agent.node, agent.incarnation) for agent in self._agents.values()}
        self.copied = {node: held for node, held in self.copied.items() if (node, held.incarnation) not in gone}

    def _placed(self, generation: GenerationRecord, plan: Plan) -> Placement:
        job = self._world.job
        domains = {str(agent.node): agent.domain for agent in generation.agents if agent.node in plan.nodes}
        return peer_copies(plan.nodes_by_layer, domains, job.layer_bytes, job.copies)

    def _follow(self) -> None:
        """A source of the same layers as before goes on where it was."""
        before, self._followed = self._followed, {}
        for name, wanted in self._placement.pulled_by(self._node).items():
            node, layers = NodeId(name), frozenset(wanted)
            if layers:
                known = before.get(node)
                if known is None or known.layers != layers:
                    known = _Following(layers)
                self._followed[node] = known

    def _keep(self, kept: Pair) -> None:
        self.kept = kept
        self._forget_unwanted(kept)

    def _forget_unwanted(self, kept: Pair) -> None:
        wanted = frozenset[int]().union(*(following.layers for following in self._followed.values()))
        self._ram.keep_only(lambda copy: outlives_change(copy, wanted, kept, self._spare))

    # What it gives.

    def give(self, layer: int, version: Pair) -> State | None:
        """To a peer, if there is a sound copy."""
        copy = self._ram.find_sound(layer, version)
        return copy.buffer.state if copy is not None else None

    def hear(self, node: NodeId, held: Holding | None) -> None:
        """A peer asks, and says what it holds."""
        if held is None:
            self.copied.pop(node, None)
        else:
            self.copied[node] = held
            self._on_copied()

    def newest(self, layers: Collection[int]) -> Pair | None:
        """That all of these are whole at."""
        return newest_whole(self._ram.versions(), layers)

    # What it takes.

    def fetch(self, node: NodeId, layer: int, version: Pair) -> Copy | None:
        """One layer that a restore wants, if that node has a sound copy."""
        peer = self._reach(node)
        given = peer.give(layer, version) if peer is not None else None
        return self._ram.receive(layer, version, given, FETCHED) if given is not None else None

    def can_pull(self) -> bool:
        return self._next_source() is not None

    def pull(self) -> str:
        found = self._next_source()
        assert found is not None
        node, peer, following = found
        if not following.left:
            return self._ask(node, peer, following)
        assert following.version is not None
        if not following.has_room:
            return self._make_room(following.left[0], following.version, following)
        layer, version, following.has_room = following.left.pop(0), following.version, False
        given = peer.give(layer, version)
        if given is None:
            following.left.clear()
            return f"layer {layer} at {version} is not to be had of {node} any more"
        self._ram.receive(layer, version, given, f"{PEER}:{node}")
        self._on_changed()
        return f"pulls layer {layer} at {version} from {node}"

    def _ask(self, node: NodeId, peer: "PeerTier", following: _Following) -> str:
        held, holding = self._held(following)
        peer.hear(self._node, holding)
        newest, kept = peer.newest(following.layers), peer.kept
        following.version, following.kept = newest, kept
        if kept is not None:
            self._forget_unwanted(kept)
            self._on_changed()
        if newest is not None and newest != held:
            here = self._ram.versions((PEER,)).get(newest, set())
            following.left, following.has_room = sorted(following.layers - here), False
        return f"asks {node}, holding {held}: {newest}, kept {kept}"

    def _make_room(self, layer: int, version: Pair, following: _Following) -> str:
        """Before it comes, and whether it comes or not."""
        here = [held for held, layers in self._ram.versions().items() if layer in layers and held != version]
        self._spare = self._spare.after(version) if self._spare is not None else None
        stay = spared_at_arrival(here, (self.kept, following.kept), self._spare)
        self._ram.keep_only(lambda copy: outlives_arrival(copy, layer, version, stay))
        self._on_changed()
        following.has_room = True
        return f"makes room for layer {layer} at {version}"

    def _next_source(self) -> "tuple[NodeId, PeerTier, _Following] | None":
        for node, following in self._followed.items():
            peer = self._reach(node)
            if peer is not None and (following.left or self._has_news(peer, following)):
                return node, peer, following
        return None

    def _has_news(self, peer: "PeerTier", following: _Following) -> bool:
        """For either of the two."""
        held, holding = self._held(following)
        if peer.copied.get(self._node) != holding or peer.kept != following.kept:
            return True
        newest = peer.newest(following.layers)
        return newest is not None and newest != held

    def _held(self, following: _Following) -> tuple[Pair | None, Holding | None]:
        """The version of it that is here, and how a peer is told."""
        held = said_to_hold(self._ram.versions((PEER,)), following.layers, following.version)
        if held is None:
            return None, None
        me = self._agents.get(self._node)
        return held, Holding(me.incarnation if me is not None else "", held, following.layers)

    def _reach(self, node: NodeId) -> "PeerTier | None":
        """That peer's, if it answers at the address that the generation's record names."""
        known, agent = self._agents.get(node), self._world.agents.get(node)
        if known is None or agent is None or not agent.active or agent.member.identity.port != known.port:
            return None
        return agent.tiers.peers if self._world.network.joins(self._node, node) else None

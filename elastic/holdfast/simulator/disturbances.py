"""Faults of what lies around the agents: the network, machines that come back, the store. Most end by themselves."""

from collections.abc import Iterable
from typing import Literal

from holdfast.model.ids import NodeId
from holdfast.simulator.faults import Fault
from holdfast.simulator.network import STORE, Direction, both_ways
from holdfast.simulator.world import World

Lost = Literal["both", "requests", "answers"]


def _cut(kind: str, sentence: str, directions: Iterable[Direction], for_s: float) -> Fault:
    cut = tuple(directions)

    def strike(world: World) -> None:
        world.network.cut(cut, world.now_s)
        world.later(for_s, f"healed: {sentence}", lambda: world.network.heal(cut))

    return Fault(kind, f"{sentence} for {for_s} s", strike)


def cut_from_store(node: str, for_s: float, lost: Lost = "both") -> Fault:
    """One way: what the node asks for is done, and it never hears of it; or nothing of it arrives."""
    ways = {"both": both_ways([node], [STORE]), "requests": ((node, STORE),), "answers": ((STORE, node),)}
    return _cut("cut_from_store", f"cut {node} from the store ({lost} lost)", ways[lost], for_s)


def cut_nodes(one: str, other: str, for_s: float, *, one_way: bool = False) -> Fault:
    """`one_way`: the first still hears the other."""
    ways = ((one, other),) if one_way else both_ways([one], [other])
    arrow = "->" if one_way else "<->"
    return _cut("cut_nodes", f"cut {one} {arrow} {other}", ways, for_s)


def isolate(node: str, others: Iterable[str], for_s: float) -> Fault:
    """From everyone, the store included."""
    return _cut("isolate", f"isolate {node}", both_ways([node], [*others, STORE]), for_s)


def halve(some: str, others: str, for_s: float, *, store: Literal["first", "second", "both"] = "first") -> Fault:
    """Two groups of nodes do not reach each other; which of them still reaches the store?"""
    outside = {"first": others, "second": some, "both": ""}[store]
    ways = {*both_ways(some, others), *both_ways(outside, [STORE])}
    return _cut("halve", f"cut {some} from {others or 'nobody'} (store: {store})", sorted(ways), for_s)


def cut_off_trainers(for_s: float) -> Fault:
    """All nodes of the present plan, together: they reach each other, nobody else and not the store. They go on until
    they must stop; who is left must not begin before that."""

    def strike(world: World) -> None:
        starts = world.checkers.starts
        plan = starts[max(starts)].plan if starts else None
        if plan is not None:
            others = [STORE, *sorted(node for node in world.agents if node not in plan.nodes)]
            cut = both_ways(sorted(plan.nodes), others)
            world.network.cut(cut, world.now_s)
            world.later(for_s, "healed: cut off all who train", lambda: world.network.heal(cut))

    return Fault("cut_off_trainers", f"cut off all who train for {for_s} s", strike)


def store_away(for_s: float) -> Fault:
    """It answers nobody. When it is back every lease has its full time again."""

    def strike(world: World) -> None:
        world.store.away += 1
        world.later(for_s, "the store is back", lambda: _back(world))

    return Fault("store_away", f"the store is away for {for_s} s", strike)


def _back(world: World) -> None:
    world.store.away -= 1
    world.store_returns()


def storage_away(for_s: float) -> Fault:
    """Remote storage, that is: whoever calls it is refused at once."""

    def strike(world: World) -> None:
        world.storage.away += 1
        world.later(for_s, "the storage is back", lambda: _storage_back(world))

    return Fault("storage_away", f"the storage is away for {for_s} s", strike)


def _storage_back(world: World) -> None:
    world.storage.away -= 1


def store_slow(for_s: float) -> Fault:
    def strike(world: World) -> None:
        world.store.slow += 1
        world.later(for_s, "the store is as fast as ever", lambda: _quicken(world))

    return Fault("store_slow", f"the store is slow for {for_s} s", strike)


def _quicken(world: World) -> None:
    world.store.slow -= 1


def store_fails_over(for_s: float) -> Fault:
    """Many calls fail, and some of those had taken effect."""

    def strike(world: World) -> None:
        world.store.failing_over += 1
        world.later(for_s, "the store has failed over", lambda: _settle(world))

    return Fault("store_fails_over", f"the store fails over for {for_s} s", strike)


def _settle(world: World) -> None:
    world.store.failing_over -= 1
    world.store_returns()


def compact() -> Fault:
    """The store forgets its history: who has not seen it yet must read all anew."""
    return Fault("compact", "compact the store", lambda world: world.keyspace.compact(world.keyspace.revision + 1))


def restart(node: str, down_s: float = 0.0, *, at_once: bool = True) -> Fault:
    """Its agent dies and comes back under the same name. `at_once`: its workers die with it; else they are still
    there, with what they hold, when the new agent comes, and end as soon as they notice."""

    def strike(world: World) -> None:
        agent = world.agents.get(NodeId(node))
        if agent is None or agent.dead:
            return
        slots = agent.member.identity.slots
        agent.kill(workers_too=at_once)
        world.later(down_s, f"{node} is back", lambda: _come_back(world, node, slots))

    orphans = "" if at_once else ", its workers a little longer"
    return Fault("restart", f"restart {node}, down for {down_s} s{orphans}", strike)


def _come_back(world: World, node: str, slots: int) -> None:
    agent = world.agents.get(NodeId(node))
    if (agent is None or agent.dead) and world.outcome is None:
        world.add_agent(node, slots)


def flap(node: str, times: int, up_s: float) -> Fault:
    """It dies and comes back, again and again."""

    again = restart(node, up_s / 4)

    def strike(world: World) -> None:
        for turn in range(times):
            world.later(turn * up_s, again.sentence, lambda: again.strike(world))

    return Fault("flap", f"{node} flaps {times} times, every {up_s} s", strike)


def lose_machine(node: str) -> Fault:
    """Gone with all its connections: nothing is refused, everything is silent."""

    def strike(world: World) -> None:
        agent = world.agents.get(NodeId(node))
        if agent is not None and not agent.dead:
            world.network.darken(node, world.now_s)
            agent.kill(workers_too=True)

    return Fault("lose_machine", f"lose the machine of {node}", strike)


def lose_lease(node: str) -> Fault:
    """Its lease is revoked while it lives: it takes another one, with what its workers hold in RAM."""

    def strike(world: World) -> None:
        agent = world.agents.get(NodeId(node))
        if agent is not None and not agent.dead:
            world.store.revoke(agent.lease)

    return Fault("lose_lease", f"revoke the lease of {node}", strike)


def break_contact(one: str, other: str) -> Fault:
    """The connection between two agents breaks for no reason."""

    def strike(world: World) -> None:
        for here, there in ((one, other), (other, one)):
            agent = world.agents.get(NodeId(here))
            if agent is not None and agent.active:
                agent.contact_lost(NodeId(there))

    return Fault("break_contact", f"break the contact of {one} and {other}", strike)

"""Scenarios drawn from a seed: the job, the data plane's dials, the weather, and faults anywhere in the run."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

from holdfast.simulator import disturbances, faults
from holdfast.simulator.buffers import Storing
from holdfast.simulator.faults import Fault
from holdfast.simulator.network import Weather
from holdfast.simulator.scenario import Scenario
from holdfast.simulator.world import Dials

_ACTIONS = 250  # about as many as an undisturbed run has
_GRACES_S = (0.05, 2.0, 30.0)
_FREEZES_S = (1.0, 5.0, 20.0)  # less than a lease, a little more, much more
# Steps from one snapshot, and from one checkpoint, to the next.
_TIERS = ((1, 0), (1, 0), (2, 0), (None, 0), (None, 0), (0, 1), (0, 2), (1, 2), (None, 2), (None, 3))
_OUTCASTS = 0.05  # share of rough seeds
_SHORT_S, _LONG_S = (0.2, 2.0, 6.0, 30.0), (1.0, 5.0, 20.0, 90.0)  # against a lease of 3 s


def draw(seed: int) -> Scenario:
    """Every fourth seed in a perfect world outside: more seeds there find more about orders of events. Five
    of eight with more than live state."""
    drawn = draw_calm(seed) if seed % 4 == 0 else draw_rough(seed)
    return with_tiers(drawn, seed) if seed % 2 == 1 or seed % 8 == 4 else drawn


def with_tiers(drawn: Scenario, seed: int) -> Scenario:
    """The same with snapshots in RAM, or checkpoints, or both, and with what may happen to them."""
    random = Random(f"tiers {seed}")
    snapshots, checkpoints = random.choice(_TIERS)
    sparse = random.random() < 0.5  # few replicas, so that a loss is not made good by live state
    return replace(
        drawn,
        storing=Storing(snapshots=snapshots, checkpoints=checkpoints),
        copies=random.choice((1, 1, 2)),
        steps=drawn.steps + random.randint(0, 4),
        depth=None if sparse else drawn.depth,
        memory=200 if sparse else drawn.memory,
        dials=replace(
            drawn.dials,
            copies_fail=random.choice((0.0, 0.0, 0.1)),
            uploads_fail=random.choice((0.0, 0.0, 0.2)),
        ),
        faults=(*drawn.faults, *(_trouble(random, drawn.nodes) for _ in range(random.choice((0, 1, 2, 4, 8))))),
    )


def draw_rough(seed: int) -> Scenario:
    """With delays, cuts, clocks that drift, and a store that is not always there."""
    calm, random = draw_calm(seed), Random(f"rough {seed}")
    weather = Weather(
        delay_s=random.choice((0.0, 0.01, 0.05, 0.3)),
        calls_lost=random.choice((0.0, 0.0, 0.02, 0.1)),
        probes_lost=random.choice((0.0, 0.0, 0.2)),
        probes_doubled=random.choice((0.0, 0.2)),
        drift=random.choice((0.0, 0.05)),
        cut_breaks_s=random.choice((None, 1.0, 15.0)),
    )
    outside = [_disturbance(random, calm.nodes) for _ in range(random.randint(1, 4))]
    inside = random.sample(calm.faults, k=random.randint(1, min(4, len(calm.faults))))
    if random.random() < _OUTCASTS:
        return _outcasts(calm, weather, random, outside)
    return replace(calm, weather=weather, faults=tuple(outside + inside))


def _outcasts(calm: Scenario, weather: Weather, random: Random, outside: list[Fault]) -> Scenario:
    """All who train are cut off together, early, while others stand by: what is found nowhere else by chance."""
    cut = disturbances.cut_off_trainers(random.choice(_LONG_S))
    early = cut.at(step=1) if random.random() < 0.5 else cut.in_generation(1, started=True)
    return replace(calm, nodes="abcd", nodes_min=1, nodes_max=2, weather=weather, faults=(early, *outside[:2]))


def draw_calm(seed: int) -> Scenario:
    """With faults of agents and workers only."""
    random = Random(seed)
    nodes = "abcd"[: random.randint(2, 4)]
    slots = random.choice((1, 1, 2))
    return Scenario(
        adaptive=True,
        nodes=nodes,
        slots=slots,
        steps=random.randint(2, 5),
        blocks=random.choice((4, 8)),
        depth=random.choice((None, None, 1, 2, 2, 4)),
        memory=random.choice((None, None, None, 200)),
        nodes_min=random.randint(1, 2),
        nodes_max=random.choice((None, None, 2)),
        deaths_per_step=9,
        dials=Dials(
            forming_breaks=random.random() < 0.5,
            contacts=random.random() < 0.5,
            rough_closings=random.choice((0, 0, 2)),
            salted=random.random() < 0.3,
        ),
        faults=tuple(_fault(random, nodes, slots) for _ in range(random.randint(1, 6))),
    )


def _fault(random: Random, nodes: str, slots: int) -> Fault:
    def node() -> str:
        return random.choice(nodes)

    kinds: tuple[Callable[[], Fault], ...] = (
        lambda: faults.kill(node()),
        lambda: faults.kill_agent(node()),
        faults.kill_leader,
        faults.drop_leader,
        lambda: faults.kill_worker(node(), random.randrange(slots)),
        lambda: faults.hang_worker(node(), random.randrange(slots), waiting=random.random() < 0.5),
        lambda: faults.freeze_agent(node(), random.choice(_FREEZES_S)),
        lambda: faults.freeze(node(), random.choice(_FREEZES_S)),
        lambda: faults.drain(node(), random.choice(_GRACES_S)),
        lambda: faults.drain(node()),
        faults.drain_leader,
        lambda: faults.join("j", slots),
        faults.skip_time,
        faults.skip_time,
        faults.stop,
    )
    return random.choice(kinds)().after(action=random.randrange(_ACTIONS))


def _trouble(random: Random, nodes: str) -> Fault:
    """For what is stored."""
    kinds: tuple[Callable[[], Fault], ...] = (
        lambda: faults.flip_ram(random.choice(nodes), random.randrange(16)),
        lambda: faults.flip_ram(random.choice(nodes), random.randrange(16)),
        lambda: faults.flip_checkpoint(random.randrange(4)),
        lambda: disturbances.storage_away(random.choice(_LONG_S)),
        lambda: faults.kill_worker(random.choice(nodes)),
        lambda: faults.kill(random.choice(nodes)),
    )
    return random.choice(kinds)().after(action=random.randrange(2 * _ACTIONS))


def _disturbance(random: Random, nodes: str) -> Fault:
    def node() -> str:
        return random.choice(nodes)

    def two() -> tuple[str, str]:
        one, other = random.sample(nodes, k=2)
        return one, other

    def halve() -> Fault:
        some = "".join(sorted(random.sample(nodes, k=random.randint(1, len(nodes) - 1))))
        others = "".join(sorted(set(nodes) - set(some)))
        return disturbances.halve(some, others, short(), store=random.choice(("first", "second", "both")))

    def isolate() -> Fault:
        one = node()
        return disturbances.isolate(one, sorted(set(nodes) - {one}), short())

    def short() -> float:
        return random.choice(_SHORT_S)

    kinds: tuple[Callable[[], Fault], ...] = (
        lambda: disturbances.cut_from_store(node(), short(), random.choice(("both", "requests", "answers"))),
        lambda: disturbances.cut_nodes(*two(), short(), one_way=random.random() < 0.5),
        isolate,
        halve,
        lambda: disturbances.cut_off_trainers(random.choice(_LONG_S)),
        lambda: disturbances.store_away(random.choice(_LONG_S)),
        lambda: disturbances.store_slow(random.choice(_LONG_S)),
        lambda: disturbances.store_fails_over(random.choice(_SHORT_S)),
        disturbances.compact,
        lambda: disturbances.restart(node(), random.choice((0.0, 1.0, 8.0)), at_once=random.random() < 0.5),
        lambda: disturbances.flap(node(), random.randint(2, 4), random.choice((0.5, 3.0))),
        lambda: disturbances.lose_machine(node()),
        lambda: disturbances.lose_lease(node()),
        lambda: disturbances.break_contact(*two()),
    )
    return random.choice(kinds)().after(action=random.randrange(_ACTIONS))

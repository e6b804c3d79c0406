"""Scenarios drawn from a seed: the job, the data plane's dials, and up to six faults anywhere in the run."""

from collections.abc import Callable
from random import Random

from harness.clockwork import faults
from harness.clockwork.faults import Fault
from harness.clockwork.scenario import Scenario
from harness.clockwork.world import Dials

_ACTIONS = 250  # about as many as an undisturbed run has
_GRACES_S = (0.05, 2.0, 30.0)
_FREEZES_S = (1.0, 5.0, 20.0)  # less than a lease, a little more, much more


def draw(seed: int) -> Scenario:
    random = Random(seed)
    nodes = "abcd"[: random.randint(2, 4)]
    slots = random.choice((1, 1, 2))
    return Scenario(
        nodes=nodes,
        slots=slots,
        steps=random.randint(2, 5),
        blocks=random.choice((4, 8)),
        depth=random.choice((None, None, 1, 2, 4)),
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
        faults.drain_leader,
        lambda: faults.join("j", slots),
        faults.skip_time,
        faults.skip_time,
        faults.stop,
    )
    return random.choice(kinds)().after(action=random.randrange(_ACTIONS))

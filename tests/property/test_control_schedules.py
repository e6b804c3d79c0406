"""Random schedules: jobs, faults and the order of everything drawn from a seed; checkers after every action.

A failure shows its seed, its scenario and the transcript; the seed alone brings it back:
`play(draw_calm(seed), seed)`.
"""

import pytest

from holdfast.simulator.choosing import InTurn
from holdfast.simulator.drawing import draw_calm
from holdfast.simulator.faults import Fault, drain, kill, kill_leader, kill_worker
from holdfast.simulator.scenario import Scenario, play

SEEDS = 320
# Seeds that found something once, beside those that come up anyway.
FOUND = (2557, 3114, 4435, 5501, 7369, 8226, 9680, 15387, 15508)


@pytest.mark.parametrize("seed", [*range(SEEDS), *FOUND])
def test_no_promise_is_broken_under_any_schedule(seed: int) -> None:
    play(draw_calm(seed), seed)


@pytest.mark.parametrize("seed", range(40))
def test_a_job_that_nothing_disturbs_completes_under_any_schedule(seed: int) -> None:
    world = play(Scenario(nodes="abc", slots=2, blocks=8, steps=4), seed)

    assert len(world.checkers.generations) == 1


@pytest.mark.parametrize(
    "fault",
    [kill("b").at(step=1), kill_leader().at(step=1), kill_worker("a").at(step=1), drain("a").in_generation(1)],
    ids=lambda fault: fault.sentence,
)
def test_any_one_action_may_come_before_its_turn(fault: Fault) -> None:
    """Exhaustive: at each action of an orderly run, each other one that was possible goes first."""
    scenario = Scenario(nodes="ab", depth=1, steps=2, faults=(fault,))
    orderly = InTurn()
    play(scenario, chooser=orderly)
    assert len(orderly.widths) > 60

    for action, width in enumerate(orderly.widths):
        for other in range(1, width):
            play(scenario, chooser=InTurn({action: other}))

"""Every plan interrupted at every point: each scenario runs once, then again for each action with a second fault after
it: at every action a quarter of the faults, and every fault at a quarter of the actions.

Whatever the point, the checkers hold, and the job completes, stops where that was asked for, or fails for want of a
copy, which the checkers see to be true. Scenarios that lose at most one node at a time never fail.
"""

import pytest

from holdfast.model.records import Result
from holdfast.simulator.choosing import InTurn
from holdfast.simulator.faults import (
    Fault,
    drain,
    drain_leader,
    drop_leader,
    freeze_agent,
    hang_worker,
    join,
    kill,
    kill_leader,
    kill_worker,
    skip_time,
    stop,
)
from holdfast.simulator.scenario import Scenario, play
from holdfast.simulator.world import Dials

SCENARIOS = {
    "a loss": Scenario(nodes="abc", steps=3, faults=(kill("c").at(step=1),)),
    "a loss noticed at once": Scenario(nodes="abc", dials=Dials(contacts=True), faults=(kill("c").at(step=1),)),
    "two losses at once": Scenario(nodes="abcd", depth=1, faults=(kill("c").at(step=1), kill("d").at(step=1))),
    "a drain": Scenario(nodes="abc", faults=(drain("c").at(step=1),)),
    "a drain of the coordinator's node": Scenario(nodes="abc", faults=(drain_leader().at(step=1),)),
    "a join": Scenario(nodes="ab", steps=10, faults=(join("d").at(step=1),)),
    "a worker's death": Scenario(nodes="ab", slots=2, steps=4, faults=(kill_worker("b", 1).at(step=1),)),
    "a pause": Scenario(nodes="ab", nodes_min=2, steps=4, faults=(kill("b").at(step=1),)),
    "a pause by a drain": Scenario(nodes="ab", memory=200, steps=4, faults=(drain("b").at(step=1),)),
    "a stop": Scenario(nodes="abc", steps=5, faults=(stop().at(step=2),)),
    "the last copy gone": Scenario(nodes="ab", memory=200, steps=4, faults=(kill("b").at(step=2),)),
    "two stages a pipeline": Scenario(nodes="abcd", depth=2, blocks=2, faults=(kill("c").at(step=1),)),
}
SECOND_FAULTS = (
    kill("a"),
    kill("b"),
    kill_leader(),
    drop_leader(),
    kill_worker("a"),
    drain("a", 2.0),
    join("e"),
    freeze_agent("b", 5.0),
    skip_time(),
)
_SHARES = 4
# Any node may go alone: layers of all others have a second copy.
SAFE = ("a join", "a stop", "a drain of the coordinator's node")


def actions_of(scenario: Scenario) -> int:
    return len(play(scenario, chooser=InTurn()).transcript)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_ends_as_it_should(name: str) -> None:
    outcome = play(SCENARIOS[name], chooser=InTurn()).outcome

    assert outcome is not None
    expected = {"a stop": Result.STOPPED, "the last copy gone": Result.FAILED}
    assert outcome.result is expected.get(name, Result.COMPLETED)


@pytest.mark.slow
@pytest.mark.parametrize("fault", SECOND_FAULTS, ids=lambda fault: fault.sentence)
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_second_fault_at_any_point_breaks_no_promise(name: str, fault: Fault) -> None:
    scenario = SCENARIOS[name]
    for action in range(SECOND_FAULTS.index(fault) % _SHARES, actions_of(scenario), _SHARES):
        play(scenario.but(fault.after(action=action)), chooser=InTurn())


@pytest.mark.parametrize("name", SAFE)
def test_a_single_loss_at_any_point_is_survived(name: str) -> None:
    scenario = SCENARIOS[name]
    for action in range(actions_of(scenario)):
        outcome = play(scenario.but(kill("a").after(action=action)), chooser=InTurn()).outcome
        assert outcome is not None
        assert outcome.result is not Result.FAILED


@pytest.mark.parametrize("fault", [drain("a"), join("e"), drop_leader()], ids=lambda fault: fault.sentence)
def test_planned_changes_at_any_point_of_a_planned_change_redo_nothing(fault: Fault) -> None:
    scenario = SCENARIOS["a drain"]
    for action in range(actions_of(scenario)):
        assert play(scenario.but(fault.after(action=action)), chooser=InTurn()).checkers.planned_only()


@pytest.mark.slow
@pytest.mark.parametrize(
    "first", [kill("a"), drain("a", 2.0), kill_worker("a"), freeze_agent("a", 5.0)], ids=lambda fault: fault.sentence
)
def test_a_loss_at_any_point_and_a_hang_at_another_break_no_promise(first: Fault) -> None:
    scenario = Scenario(nodes="abc", steps=3)
    count = actions_of(scenario)
    for action in range(count):
        for later in range(action, count + 60, 84):
            for waiting in (False, True):
                faults = (first.after(action=action), hang_worker("b", waiting=waiting).after(action=later))
                play(scenario.but(*faults), chooser=InTurn())

"""What each kind of disturbance does to a job, with the real coordinator and sessions on a virtual clock."""

from collections import Counter

import pytest

from holdfast.model.ids import NodeId, SlotId
from holdfast.model.records import Action, Cause, OutcomeRecord, Result, StopMode
from holdfast.simulator.choosing import InTurn
from holdfast.simulator.drawing import draw
from holdfast.simulator.faults import (
    Fault,
    drain,
    drain_leader,
    drop_leader,
    freeze,
    freeze_agent,
    hang_worker,
    join,
    kill,
    kill_agent,
    kill_leader,
    kill_worker,
    stop,
    user_code_fails,
)
from holdfast.simulator.scenario import Scenario, begin, play
from holdfast.simulator.surroundings import Phase
from holdfast.simulator.wires import ViolationError
from holdfast.simulator.world import World

SEEDS = range(6)


def causes(world: World) -> list[Cause]:
    return [generation.cause for generation in world.checkers.generations]


def ended(world: World) -> OutcomeRecord:
    assert world.outcome is not None
    return world.outcome


def has_written(world: World, action: Action) -> bool:
    return any(start.action is action for start in world.checkers.starts.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_one_seed_gives_one_trace(seed: int) -> None:
    first, second = play(draw(seed), seed), play(draw(seed), seed)

    assert first.transcript == second.transcript
    assert first.tell() == second.tell()


def test_two_seeds_give_two_traces() -> None:
    assert play(Scenario(), 1).transcript != play(Scenario(), 2).transcript


@pytest.mark.parametrize("seed", SEEDS)
def test_an_undisturbed_job_has_one_generation(seed: int) -> None:
    world = play(Scenario(nodes="abc", slots=2, steps=4), seed)

    assert causes(world) == [Cause.START]
    assert ended(world) == OutcomeRecord(result=Result.COMPLETED, reason="all 4 steps are committed", step=4)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_lost_node_costs_at_most_the_step_in_flight(seed: int) -> None:
    world = play(Scenario(nodes="abc", steps=4, faults=(kill("b").at(step=2),)), seed)

    assert ended(world).result is Result.COMPLETED
    assert causes(world) == [Cause.START, Cause.LOSS]
    assert world.checkers.redone_steps <= 1


@pytest.mark.parametrize("seed", SEEDS)
def test_two_nodes_lost_at_once_cost_no_committed_step(seed: int) -> None:
    world = play(Scenario(nodes="abcd", depth=1, steps=4, faults=(kill("b").at(step=2), kill("c").at(step=2))), seed)

    assert ended(world).result is Result.COMPLETED
    assert world.checkers.redone_steps <= 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fault", [drain("b"), drain_leader(), join("d")], ids=lambda fault: fault.sentence)
def test_a_planned_change_redoes_nothing(fault: Fault, seed: int) -> None:
    world = play(Scenario(nodes="abc", steps=60, faults=(fault.at(step=1),)), seed)

    assert ended(world).result is Result.COMPLETED
    assert len(world.checkers.generations) == 2
    assert world.checkers.planned_only()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_drained_node_leaves_before_its_deadline(seed: int) -> None:
    run = begin(Scenario(nodes="abc", steps=6, faults=(drain("b", grace_s=30.0).at(step=1),)), InTurn())
    run.finish()

    left_s = next(at_s for at_s, lane, _ in run.world.transcript if lane == "b leave")
    assert "b" in run.world.checkers.released
    assert left_s < 5.0


def test_a_drain_whose_deadline_is_near_does_not_wait_for_a_boundary() -> None:
    """The step never ends, because a worker hangs."""
    world = play(Scenario(nodes="abc", steps=4, faults=(hang_worker("c").at(step=1), drain("b", 4.0).at(step=1))))

    stops = [(generation.cause, generation.stop) for generation in world.checkers.generations]
    assert (Cause.DRAIN, StopMode.BOUNDARY) in stops
    assert (Cause.DRAIN, StopMode.ABORT) in stops
    hurried = next(at_s for at_s, _, what in world.transcript if "must leave now" in what)
    assert 2.0 <= hurried < 3.0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_job_pauses_below_its_minimum_and_goes_on_when_a_node_comes(seed: int) -> None:
    world = play(Scenario(nodes="abc", nodes_min=3, steps=4, faults=(kill("b").at(step=2),)), seed)

    assert ended(world).result is Result.COMPLETED
    assert has_written(world, Action.HOLD)
    assert causes(world) == [Cause.START, Cause.LOSS, Cause.RESUME]
    assert "r1" in world.agents


@pytest.mark.parametrize("seed", SEEDS)
def test_a_drain_below_the_minimum_brings_all_layers_to_safety_first(seed: int) -> None:
    world = play(Scenario(nodes="ab", memory=200, nodes_min=2, steps=12, faults=(drain("b").at(step=2),)), seed)

    assert ended(world).result is Result.COMPLETED
    assert "b" in world.checkers.released
    hold = next(start for start in world.checkers.starts.values() if start.action is Action.HOLD)
    assert {transfer.source.node for transfer in hold.transfers} == {"b"}
    assert world.checkers.planned_only()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_worker_that_dies_comes_back_in_the_same_job(seed: int) -> None:
    world = play(Scenario(nodes="ab", slots=2, depth=1, steps=6, faults=(kill_worker("b", 1).at(step=2),)), seed)

    assert ended(world).result is Result.COMPLETED
    assert causes(world)[1] is Cause.WORKER_DIED
    assert world.checkers.redone_steps <= 1


@pytest.mark.parametrize("phase", [Phase.COMPUTING, Phase.VOTING, Phase.FORMING, Phase.MOVING, Phase.AGREEING])
def test_a_worker_that_always_dies_at_the_same_point_ends_the_job(phase: Phase) -> None:
    """Also one that dies before its generation runs: that began for ever anew."""
    run = begin(Scenario(nodes="ab", nodes_min=2, steps=4, deaths_per_step=3), InTurn())
    step = 2 if phase in (Phase.COMPUTING, Phase.VOTING) else 0
    point = (SlotId(NodeId("b"), 0), phase, step)
    run.world.deaths[point] = 1000

    outcome = run.finish()

    assert outcome.result is Result.FAILED
    assert f"in a row at step {step}" in outcome.reason
    assert 1000 - run.world.deaths[point] == 3


def test_deaths_at_different_steps_do_not_add_up() -> None:
    run = begin(Scenario(nodes="ab", nodes_min=2, steps=6, deaths_per_step=2), InTurn())
    for step in (0, 2, 4):
        run.world.deaths[SlotId(NodeId("b"), 0), Phase.COMPUTING, step] = 1

    assert run.finish().result is Result.COMPLETED
    assert not +run.world.deaths


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stop_ends_the_job_at_a_boundary_with_its_weights_written(seed: int) -> None:
    world = play(Scenario(nodes="abc", steps=6, faults=(stop().at(step=2),)), seed)

    assert ended(world).result is Result.STOPPED
    assert world.checkers.final.keys() == {0, 1, 2, 3}
    assert world.checkers.planned_only()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stop_while_every_node_drains_still_writes_the_weights(seed: int) -> None:
    """Found by the simulation: the coordinator decided without end."""
    world = play(
        Scenario(nodes="ab", steps=9, faults=(stop().at(step=2), drain("a").at(step=2), drain("b").at(step=2))), seed
    )

    assert ended(world).result is Result.STOPPED
    assert world.checkers.final.keys() == {0, 1, 2, 3}


def test_the_last_copy_gone_fails_the_job_and_names_layers_and_nodes() -> None:
    scenario = Scenario(nodes="abcd", depth=2, blocks=2, steps=6)
    plan = play(scenario).checkers.starts[1].plan
    assert plan is not None
    holders = [plan.slots[rank].node for rank in plan.holders(3)]
    gone = [number for number in range(4) if {plan.slots[rank].node for rank in plan.holders(number)} == set(holders)]

    world = play(scenario.but(*(kill(node).at(step=3) for node in holders)))

    outcome = ended(world)
    assert outcome.result is Result.FAILED
    assert f"layers {', '.join(f'layer-{number}' for number in gone)} is gone" in outcome.reason
    assert all(f"{node}/0" in outcome.reason for node in holders)


@pytest.mark.parametrize("seed", SEEDS)
def test_all_nodes_gone_before_any_step_was_told_of_begins_anew(seed: int) -> None:
    both = (kill("a").in_generation(1, started=True), kill("b").in_generation(1, started=True))

    assert ended(play(Scenario(faults=both), seed)).result is Result.COMPLETED


@pytest.mark.parametrize("seed", SEEDS)
def test_an_exception_in_the_users_code_ends_the_job_at_once(seed: int) -> None:
    world = play(Scenario(nodes="abc", steps=6, fails=True, faults=(user_code_fails("b", step=3),)), seed)

    assert ended(world).result is Result.FAILED
    assert ended(world).reason.startswith("step 3, b/0: ")
    assert len(world.checkers.generations) == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_nodes_beyond_the_maximum_stand_by_and_fill_in(seed: int) -> None:
    world = play(Scenario(nodes="abc", nodes_max=2, desired=3, steps=5, faults=(kill("a").at(step=2),)), seed)

    assert ended(world).result is Result.COMPLETED
    plans = [start.plan.nodes for start in world.checkers.starts.values() if start.plan is not None]
    assert plans == [{"a", "b"}, {"b", "c"}]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_that_stands_by_may_go_without_anyone_noticing(seed: int) -> None:
    world = play(Scenario(nodes="abc", nodes_max=2, steps=6, faults=(kill("c").at(step=2),)), seed)

    assert causes(world) == [Cause.START]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "fault",
    [kill_leader(), drop_leader(), kill_agent("a"), kill_agent("b"), freeze("a", 20.0), freeze_agent("a", 20.0)],
    ids=lambda fault: fault.sentence,
)
def test_losing_the_coordinator_or_an_agent_loses_no_step(fault: Fault, seed: int) -> None:
    world = play(Scenario(nodes="abc", depth=1, steps=5, faults=(fault.at(step=2),)), seed)

    assert ended(world).result is Result.COMPLETED
    assert world.checkers.redone_steps <= 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_coordinator_that_comes_anew_changes_nothing(seed: int) -> None:
    faults = tuple(drop_leader().after(action=action) for action in range(0, 200, 5))
    world = play(Scenario(nodes="abc", steps=6, faults=faults), seed)

    assert causes(world) == [Cause.START]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_frozen_for_less_than_its_lease_is_not_lost(seed: int) -> None:
    world = play(Scenario(nodes="abc", steps=5, faults=(freeze("b", 2.0).at(step=2),)), seed)

    assert causes(world) == [Cause.START]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_lease_lost_while_nobody_coordinates_is_no_loss_once_it_is_taken_anew(seed: int) -> None:
    """A single node: only its own coordinator could have noticed. A rejoining node that gave up its workers here
    left a generation that never formed."""
    world = play(Scenario(nodes="a", steps=5, faults=(freeze_agent("a", 5.0).in_generation(1),)), seed)

    assert ended(world).result is Result.COMPLETED
    assert world.checkers.redone_steps <= 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_job_that_has_ended_stays_ended_for_a_node_that_thaws(seed: int) -> None:
    """It finds no leader, and would find everyone else lost."""
    world = play(Scenario(nodes="abc", depth=1, steps=3, faults=(freeze("b", 500.0).at(step=1),)), seed)

    assert ended(world).result is Result.COMPLETED


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_taken_for_lost_while_it_formed_is_freed_when_it_comes_back(seed: int) -> None:
    """Its worker waits in groups that nobody else will form. A later stop at a boundary would wait for it."""
    world = play(
        Scenario(
            nodes="abc",
            depth=1,
            steps=40,
            faults=(
                freeze_agent("c", 4.0).in_generation(1, started=True),
                freeze("b", 3.5).in_generation(1, started=True),
            ),
        ),
        seed,
    )

    assert ended(world).result is Result.COMPLETED
    assert world.now_s < 60.0


def test_a_violation_tells_seed_scenario_and_transcript() -> None:
    scenario = Scenario(nodes="ab", faults=(user_code_fails("b", step=1),))  # expects to complete

    with pytest.raises(ViolationError) as caught:
        play(scenario, 7)

    told = str(caught.value)
    assert "seed 7" in told
    assert "user code fails on b/0 in step 1" in told
    assert "writes failed" in told


def test_every_kind_of_cause_comes_up_among_the_drawn_schedules() -> None:
    """The random schedules would show little if they did not get everywhere."""
    seen = Counter(cause for seed in range(60) for cause in causes(play(draw(seed), seed)))

    assert set(seen) >= set(Cause) - {Cause.STALLED}

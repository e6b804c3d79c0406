"""What happens to a job when the network, the clocks, the machines or the store misbehave."""

import pytest

from holdfast.model.records import Cause, Result
from holdfast.simulator.disturbances import (
    break_contact,
    compact,
    cut_from_store,
    cut_nodes,
    flap,
    halve,
    isolate,
    lose_lease,
    lose_machine,
    restart,
    store_away,
    store_fails_over,
    store_slow,
)
from holdfast.simulator.faults import Fault, drain, drop_leader, kill, kill_leader
from holdfast.simulator.network import Clock, Weather
from holdfast.simulator.scenario import Scenario, play
from holdfast.simulator.world import World

SEEDS = range(8)
ROUGH = Weather(delay_s=0.02, probes_lost=0.1, probes_doubled=0.2, drift=0.05, cut_breaks_s=1.0)


def causes(world: World) -> list[Cause]:
    return [generation.cause for generation in world.checkers.generations]


def completed(world: World) -> bool:
    return world.outcome is not None and world.outcome.result is Result.COMPLETED


def committed_s(world: World) -> list[float]:
    """When the first rank committed each step."""
    times: dict[str, float] = {}
    for at_s, _, what in world.transcript:
        if what.startswith("voting -> "):
            times.setdefault(what.partition("step ")[2], at_s)
    return sorted(times.values())


def is_known_to_run(world: World) -> bool:
    """To the coordinator: it starts anew what it takes for stalled."""
    terms = (agent.term for agent in world.agents.values() if agent.term is not None)
    return any(term.coordinator is not None and term.coordinator.view.is_running for term in terms)


def struck_s(world: World, text: str) -> float:
    return next(at_s for at_s, lane, what in world.transcript if lane == "fault" and text in what)


# The store.


@pytest.mark.parametrize("seed", SEEDS)
def test_steps_go_on_being_committed_while_the_store_is_away(seed: int) -> None:
    world = play(
        Scenario(nodes="abc", steps=30, faults=(store_away(60.0).when("once it runs", is_known_to_run),)), seed
    )

    assert completed(world)
    assert causes(world) == [Cause.START]
    away_s = struck_s(world, "the store is away")
    meanwhile = [at_s for at_s in committed_s(world) if away_s < at_s < away_s + 60.0]
    assert len(meanwhile) >= 20


@pytest.mark.parametrize("seed", SEEDS)
def test_nobody_is_punished_for_a_lease_that_the_store_could_not_renew(seed: int) -> None:
    world = play(
        Scenario(
            nodes="abc", steps=30, weather=ROUGH, faults=(store_away(60.0).when("once it runs", is_known_to_run),)
        ),
        seed,
    )

    assert completed(world)
    assert Cause.LOSS not in causes(world)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_loss_while_the_store_is_away_is_dealt_with_when_it_is_back(seed: int) -> None:
    faults = (store_away(60.0).when("once it runs", is_known_to_run), kill("b").at(step=9))
    world = play(Scenario(nodes="abc", depth=1, steps=30, faults=faults), seed)

    assert completed(world)
    assert causes(world) == [Cause.START, Cause.LOSS]
    assert world.checkers.redone_steps <= 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("disturbance", [store_slow(20.0), store_fails_over(10.0), compact()], ids=lambda f: f.kind)
def test_a_store_that_is_slow_fails_over_or_forgets_its_history_loses_nothing(disturbance: Fault, seed: int) -> None:
    faults = (disturbance.at(step=1), kill("b").at(step=2), compact().at(step=3))
    world = play(Scenario(nodes="abc", depth=1, steps=8, faults=faults), seed)

    assert completed(world)
    assert world.checkers.redone_steps <= 1


@pytest.mark.parametrize("seed", SEEDS)
def test_whoever_campaigned_in_vain_and_won_without_knowing_leads_all_the_same(seed: int) -> None:
    """The leader key is written, the answer lost: the key would be renewed for ever, with nobody behind it."""
    cut = cut_from_store("a", 1.0, "answers")
    faults = (kill_leader().at(step=2), *(cut.after(action=action) for action in range(60, 140, 10)))
    world = play(Scenario(nodes="abc", depth=1, steps=20, faults=faults), seed)

    assert completed(world)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("action", [10, 15, 20, 25])
def test_a_leader_that_came_and_went_in_forgotten_history_is_missed(action: int, seed: int) -> None:
    faults = (compact().after(action=action), drop_leader().after(action=action + 1))
    world = play(Scenario(nodes="abc", weather=Weather(delay_s=0.3), faults=faults), seed)

    assert completed(world)


@pytest.mark.parametrize("seed", SEEDS)
def test_who_stopped_before_the_store_was_away_for_long_is_heard_when_it_is_back(seed: int) -> None:
    faults = (kill("a").at(step=1), store_away(90.0).in_generation(2))
    world = play(Scenario(nodes="abc", depth=1, weather=Weather(delay_s=0.05), faults=faults), seed)

    assert completed(world)
    assert world.now_s < 200.0


# The network.


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_cut_from_the_store_for_less_than_its_lease_is_not_lost(seed: int) -> None:
    world = play(Scenario(nodes="abc", steps=12, faults=(cut_from_store("b", 2.0).at(step=2),)), seed)

    assert completed(world)
    assert causes(world) == [Cause.START]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("node", ["a", "b", "c"])
def test_a_node_cut_off_from_everyone_is_replaced_and_comes_back(node: str, seed: int) -> None:
    """The coordinator's too."""
    others = sorted({"a", "b", "c"} - {node})
    faults = (isolate(node, others, 30.0).at(step=2),)
    world = play(Scenario(nodes="abc", depth=1, steps=400, weather=ROUGH, faults=faults), seed)

    assert completed(world)
    assert causes(world)[1] in (Cause.LOSS, Cause.COMMUNICATION)  # by its lease, or by those who miss it
    assert world.checkers.redone_steps <= 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("node", ["a", "b"])
def test_a_node_cut_off_with_the_last_copy_of_a_layer_is_waited_for(node: str, seed: int) -> None:
    """Nobody knows that it is dead."""
    faults = (isolate(node, "ab".replace(node, ""), 30.0).at(step=2),)
    world = play(Scenario(nodes="ab", memory=200, steps=6, faults=faults), seed)

    assert completed(world)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("store", ["first", "second"])
def test_of_two_halves_only_the_one_with_the_store_trains(store: str, seed: int) -> None:
    faults = (halve("ab", "cd", 30.0, store=store).at(step=2),)  # type: ignore[arg-type]
    world = play(Scenario(nodes="abcd", depth=1, steps=200, weather=ROUGH, faults=faults), seed)

    assert completed(world)
    assert world.checkers.votes_out_of_reach == 0
    assert world.checkers.redone_steps <= 1


@pytest.mark.parametrize("seed", SEEDS)
def test_workers_on_two_sides_of_a_cut_exchange_nothing_until_it_heals(seed: int) -> None:
    """Both agents still reach the store; nobody notices within the cut's few seconds."""
    faults = (cut_nodes("a", "b", 5.0).at(step=2),)
    world = play(Scenario(nodes="ab", depth=1, steps=6, faults=faults), seed)

    assert completed(world)
    cut_s = struck_s(world, "cut a <-> b")
    meanwhile = [at_s for at_s in committed_s(world) if cut_s + 0.1 < at_s < cut_s + 5.0]
    assert not meanwhile


@pytest.mark.parametrize("seed", SEEDS)
def test_contacts_that_break_for_no_reason_change_nothing(seed: int) -> None:
    faults = tuple(break_contact("a", "b").after(action=action) for action in range(20, 160, 20))
    world = play(Scenario(nodes="ab", steps=6, weather=Weather(delay_s=0.01), faults=faults), seed)

    assert causes(world) == [Cause.START]


# Machines.


@pytest.mark.parametrize("seed", SEEDS)
def test_a_machine_that_is_gone_without_a_word_is_noticed_by_its_lease(seed: int) -> None:
    world = play(Scenario(nodes="abc", depth=1, steps=8, faults=(lose_machine("b").at(step=2),)), seed)

    assert completed(world)
    assert causes(world) == [Cause.START, Cause.LOSS]
    assert 3.0 <= world.now_s < 15.0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_node_restarted_under_its_old_name_joins_again(at_once: bool, seed: int) -> None:
    faults = (restart("b", 0.5, at_once=at_once).at(step=2),)
    world = play(Scenario(nodes="abc", depth=1, steps=400, weather=ROUGH, faults=faults), seed)

    assert completed(world)
    assert world.checkers.redone_steps <= 1
    assert "b" in {ref.slot.node for ref in world.checkers.generations[-1].members}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_that_takes_a_new_lease_keeps_what_it_holds(seed: int) -> None:
    """The only copy, even."""
    world = play(Scenario(nodes="ab", memory=200, steps=12, faults=(lose_lease("b").at(step=3),)), seed)

    assert completed(world)
    assert world.checkers.redone_steps <= 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_flapping_node_does_not_keep_the_others_from_training(seed: int) -> None:
    world = play(Scenario(nodes="abc", depth=1, steps=20, faults=(flap("b", 6, 1.0).at(step=2),)), seed)

    assert completed(world)
    assert world.now_s < 60.0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_drain_ends_in_time_on_a_clock_that_runs_fast(seed: int) -> None:
    world = play(Scenario(nodes="abc", steps=12, weather=ROUGH, faults=(drain("b", 8.0).at(step=1),)), seed)

    assert completed(world)
    assert "b" in world.checkers.released
    assert world.checkers.planned_only()


def test_a_clock_never_shows_less_than_it_was_asked_to_wait_for() -> None:
    for clock in (Clock(), Clock(rate=0.95, offset_s=12345.678), Clock(rate=1.05, offset_s=0.1)):
        for local_s in (13000.0, 13000.1, 98765.4321):
            assert local_s <= clock.read(clock.when(local_s)) < local_s + 1e-5

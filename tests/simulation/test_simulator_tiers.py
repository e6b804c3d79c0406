"""What RAM, peers' copies and checkpoints give back, with the real rules on a virtual clock."""

from dataclasses import replace
from typing import Any

import pytest

from holdfast.control import start
from holdfast.control.recovery import Lasting, Stored, lasting_in_ram
from holdfast.control.snapshotting import SnapshotRules
from holdfast.model.records import Result, StartRecord
from holdfast.simulator import buffers
from holdfast.simulator.buffers import Storing
from holdfast.simulator.disturbances import storage_away
from holdfast.simulator.drawing import draw, draw_calm, draw_rough, with_tiers
from holdfast.simulator.faults import Fault, flip_checkpoint, flip_ram, join, kill, kill_worker
from holdfast.simulator.scenario import Scenario, play
from holdfast.simulator.wires import ViolationError
from holdfast.simulator.world import World

SEEDS = range(6)
# Of four layers a slot holds two: no layer lies on two nodes.
DEEP = Scenario(nodes="ab", memory=200, steps=8, storing=Storing(snapshots=1))


def rot_newest(world: World) -> None:
    """A byte of every copy of the newest version that RAM holds whole."""
    copies = [copy for agent in world.agents.values() for copy in agent.tiers.ram.copies()]
    layers = {
        version: {copy.layer for copy in copies if copy.version == version} for version in {c.version for c in copies}
    }
    newest = max(version for version, found in layers.items() if len(found) == DEEP.layers)
    for copy in copies:
        if copy.version == newest:
            copy.buffer.flip()
            world.checkers.stored.flipped += 1


# Between two snapshots, when RAM has two versions whole.
ROTTEN = replace(DEEP, storing=Storing(snapshots=2)).but(
    Fault("rot", "all copies of the newest version rot", rot_newest).at(step=5), kill_worker("b").at(step=5)
)


def last_start(world: World) -> StartRecord:
    return world.checkers.starts[max(world.checkers.starts)]


def completed(world: World) -> bool:
    return world.outcome is not None and world.outcome.result is Result.COMPLETED


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_that_held_layers_alone_costs_a_committed_step_at_most(seed: int) -> None:
    world = play(DEEP.but(kill("b").at(step=4), join("c").at(step=4)), seed)

    assert completed(world)
    assert last_start(world).version.step >= 3
    assert last_start(world).restores


@pytest.mark.parametrize("seed", SEEDS)
def test_two_nodes_at_once_cost_no_more_where_two_more_have_copies(seed: int) -> None:
    deep = Scenario(nodes="abcd", memory=100, steps=8, copies=2, storing=Storing(snapshots=1))
    losses = (kill("b").at(step=4), kill("c").at(step=4), join("e").at(step=4), join("f").at(step=4))
    world = play(deep.but(*losses), seed)

    assert completed(world)
    assert max(start.version.step for start in world.checkers.starts.values()) >= 3


@pytest.mark.parametrize("seed", SEEDS)
def test_a_worker_starts_from_what_its_own_agent_has(seed: int) -> None:
    world = play(DEEP.but(kill_worker("b").at(step=4)), seed)

    assert completed(world)
    assert last_start(world).version.step >= 3
    own = [r for r in last_start(world).restores if r.target.node == "b"]
    assert own
    assert all(restore.sources[0] == "b" for restore in own)


@pytest.mark.parametrize("seed", SEEDS)
def test_when_all_nodes_are_gone_others_go_on_from_the_checkpoint(seed: int) -> None:
    lost = tuple(kill(node).when("once two are listed", has_checkpoints) for node in "ab")
    world = play(Scenario(nodes="ab", steps=8, storing=Storing(checkpoints=1), faults=lost), seed)

    assert completed(world)
    assert last_start(world).checkpoint
    assert last_start(world).version.step >= 2


@pytest.mark.parametrize("seed", SEEDS)
def test_a_corrupt_checkpoint_is_passed_over_and_never_waited_for(seed: int) -> None:
    faults = (
        flip_checkpoint(1).when("once two are listed", has_checkpoints),
        kill("b").when("once two are listed", has_checkpoints),
        join("c").when("once two are listed", has_checkpoints),
    )
    deep = Scenario(nodes="ab", memory=200, steps=8, storing=Storing(checkpoints=1), faults=faults)
    world = play(deep, seed)

    assert completed(world)
    assert any(start.restores for start in world.checkers.starts.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_storage_that_is_away_is_waited_for(seed: int) -> None:
    away = storage_away(200.0).when("once two are listed", has_checkpoints)
    lost = tuple(kill(node).when("once two are listed", has_checkpoints) for node in "ab")
    world = play(Scenario(nodes="ab", steps=8, storing=Storing(checkpoints=1), faults=(away, *lost)), seed)

    assert completed(world)
    assert last_start(world).checkpoint
    assert world.now_s > 200.0


@pytest.mark.parametrize("flips", [1, 2, 4])
@pytest.mark.parametrize("seed", SEEDS)
def test_bytes_that_flip_in_ram_are_found_before_they_count(seed: int, flips: int) -> None:
    """Checked wherever a worker takes something over; the last copy may be among them."""
    rotten = tuple(flip_ram(node, index).at(step=3) for node in "ac" for index in range(flips))
    world = play(
        Scenario(nodes="abc", memory=200, steps=8, storing=Storing(snapshots=1)).but(*rotten, kill("b").at(step=3)),
        seed,
    )

    assert world.outcome is not None


@pytest.mark.parametrize("seed", SEEDS)
def test_where_the_newest_copies_rotted_everywhere_it_goes_back_a_step(seed: int) -> None:
    world = play(ROTTEN, seed)

    assert completed(world)
    assert last_start(world).version.step == 2


def test_without_a_version_to_go_back_to_it_could_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "lasting_in_ram", lambda *args: Lasting(lasting_in_ram(*args).kept, None))

    assert not any(completed(play(ROTTEN, seed)) for seed in SEEDS)


def has_checkpoints(world: World) -> bool:
    return len(world.checkers.stored.checkpoints) >= 2


@pytest.mark.parametrize("seed", range(80))
def test_no_promise_is_broken_with_copies_of_all_kinds(seed: int) -> None:
    play(with_tiers(draw_rough(seed), seed), seed)
    play(with_tiers(draw_calm(seed), seed), seed)


def counts_any_copy(self: Any) -> bool:
    copied = self._copied
    told = (copied.generation, copied.version) if copied is not None else None
    return self._begun is None or told == (self._generation, self._begun)


def takes_any_buffer(held: Any, version: Any, keep: Any) -> int:
    return min(range(len(held)), key=lambda at: held[at] or (-1, -1))


BUGS: dict[str, tuple[Any, str, object]] = {
    "copies of other layers of that version count": (SnapshotRules, "is_copied", property(counts_any_copy)),
    "nobody waits for copies": (SnapshotRules, "is_copied", property(lambda self: True)),
    "the kept version is overwritten": (buffers, "choose", takes_any_buffer),
    "what is in RAM is forgotten": (Stored, "in_ram", lambda self, version: {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*BUGS[name])

    assert any(is_broken(draw(seed), seed) for seed in range(1, 1000, 2))


def is_broken(scenario: Scenario, seed: int) -> bool:
    try:
        play(scenario, seed)
    except ViolationError:
        return True
    return False

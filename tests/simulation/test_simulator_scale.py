"""What a generation costs grows with the number of nodes, and no faster (docs/scale.md)."""

from functools import partial

import pytest

from harness.calls import calls_of
from holdfast.simulator.fleet import Traffic
from holdfast.simulator.scale import measure

CHANGES = ("start", "loss", "join", "drain")


@pytest.fixture(scope="module")
def costs() -> dict[int, dict[str, Traffic]]:
    return {nodes: measure(nodes, slots=1, depth=8) for nodes in (100, 1000)}


def test_what_is_computed_grows_no_faster_than_the_nodes() -> None:
    """docs/scale.md has the seconds."""
    few, many = (calls_of(partial(measure, nodes, slots=1, depth=8)) for nodes in (100, 1000))

    assert many <= 10 * few


@pytest.mark.parametrize("change", CHANGES)
def test_store_writes_and_bytes_of_a_generation_grow_linearly(
    change: str, costs: dict[int, dict[str, Traffic]]
) -> None:
    few, many = costs[100][change], costs[1000][change]

    assert many.writes <= 10 * few.writes
    assert many.bytes_written <= 10.5 * few.bytes_written


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_is_one_generation(change: str, costs: dict[int, dict[str, Traffic]]) -> None:
    assert len(costs[1000][change].causes) == 1


def test_twice_as_many_slots_a_node_cost_no_more_writes() -> None:
    one, two = (measure(50, slots=slots, depth=4) for slots in (1, 2))

    assert {change: traffic.writes for change, traffic in two.items()} == {
        change: traffic.writes for change, traffic in one.items()
    }

"""What a generation costs grows with the number of nodes, and no faster (docs/scale.md)."""

import cProfile

import pytest

from holdfast.simulator.fleet import Traffic
from holdfast.simulator.scale import measure

CHANGES = ("start", "loss", "join", "drain")


@pytest.fixture(scope="module")
def costs() -> dict[int, dict[str, Traffic]]:
    return {nodes: measure(nodes, slots=1, depth=8) for nodes in (100, 1000)}


def test_what_is_computed_grows_no_faster_than_the_nodes() -> None:
    """In calls, which are the same on every machine; docs/scale.md has the seconds."""
    calls = {}
    for nodes in (100, 1000):
        profile = cProfile.Profile()
        profile.runcall(measure, nodes, slots=1, depth=8)
        calls[nodes] = sum(entry.callcount for entry in profile.getstats())

    assert calls[1000] <= 10 * calls[100]


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

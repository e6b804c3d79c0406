"""Where layers are cut."""

import pytest

from holdfast.model.plan import Span
from holdfast.planner.cost import to_ticks
from holdfast.planner.partition import Partition


def partition(costs: list[int], sizes: list[int] | None = None, memory: int | None = None) -> Partition:
    return Partition(costs, sizes or [1] * len(costs), memory, len(costs))


def bounds(cuts: tuple[Span, ...]) -> list[int]:
    return [span.start for span in cuts] + [cuts[-1].stop]


def test_equal_layers_are_cut_evenly_with_the_shorter_stages_first() -> None:
    assert bounds(partition([1] * 12).cuts(3)) == [0, 4, 8, 12]
    assert bounds(partition([1] * 10).cuts(4)) == [0, 2, 4, 7, 10]


def test_a_costly_layer_gets_a_stage_of_its_own() -> None:
    assert bounds(partition([1, 1, 9, 1, 1]).cuts(3)) == [0, 2, 3, 5]


def test_memory_overrules_balance() -> None:
    by_memory = partition([1, 1, 1, 1], [10, 10, 1, 1], memory=12)

    assert bounds(by_memory.cuts(2)) == [0, 1, 4]
    assert by_memory.depth_least == 2


def test_a_layer_larger_than_a_slot_fits_no_depth() -> None:
    assert partition([1, 1], [5, 1], memory=4).depth_least is None


def test_familiar_cuts_are_those_that_are_held_if_they_are_nearly_as_fast() -> None:
    held = [frozenset(range(11)), frozenset(range(11, 20))]

    assert bounds(partition([100] * 20).familiar_cuts(2, held, slack=0.1)) == [0, 11, 20]
    assert bounds(partition([100] * 20).familiar_cuts(2, held, slack=0.09)) == [0, 10, 20]


def test_equal_costs_stay_equal_whatever_floats_make_of_their_sums() -> None:
    ticks, tick = to_ticks([0.1] * 7)

    assert len(set(ticks)) == 1
    assert sum(ticks) * tick == pytest.approx(0.7)


def test_free_layers_count_alike() -> None:
    assert to_ticks([0.0, 0.0]) == ((1, 1), 0.0)

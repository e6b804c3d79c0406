"""Where layers are cut."""

import pytest

from holdfast.planner.cost import Costs, to_ticks
from holdfast.planner.partition import Chain, Cuts, Kind, Partition


def costs(compute: list[int], **changed: object) -> Costs:
    none = (0,) * len(compute)
    given: dict[str, object] = {
        "compute": tuple(compute),
        "boundaries": none,
        "gradients": (1,) * len(compute),
        "resident": (1,) * len(compute),
        "activations": none,
        "stage": 0,
        "load": 0,
        "tick": 1.0,
        **changed,
    }
    return Costs(**given)  # type: ignore[arg-type]


def chain(made: Costs, depth: int, memory: int | None = None) -> Chain:
    return Partition(made, [Kind(1.0, memory)], exact=False).chains((depth,))[0]


def bounds(cuts: Cuts) -> list[int]:
    return [span.start for span in cuts] + [cuts[-1].stop]


def test_equal_layers_are_cut_evenly_with_the_shorter_stages_first() -> None:
    assert bounds(chain(costs([1] * 12), 3).cuts) == [0, 4, 8, 12]
    assert bounds(chain(costs([1] * 10), 4).cuts) == [0, 2, 4, 7, 10]


def test_a_costly_layer_gets_a_stage_of_its_own() -> None:
    assert bounds(chain(costs([1, 1, 9, 1, 1]), 3).cuts) == [0, 2, 3, 5]


def test_memory_overrules_balance() -> None:
    assert bounds(chain(costs([1, 1, 1, 1], resident=(10, 10, 1, 1)), 2, memory=12).cuts) == [0, 1, 4]


def test_first_stages_keep_more_microbatches_in_flight() -> None:
    # Two of them in the first stage, one in the second: 3 layers would take 3 + 6 bytes.
    assert bounds(chain(costs([1] * 6, activations=(1,) * 6), 2, memory=8).cuts) == [0, 2, 6]


def test_a_layer_larger_than_a_slot_fits_no_depth() -> None:
    partition = Partition(costs([1, 1], resident=(5, 1)), [Kind(1.0, 4)], exact=False)

    assert partition.chains((1,)) == partition.chains((2,)) == ()


def test_a_slow_slot_gets_fewer_layers() -> None:
    partition = Partition(costs([2] * 12), [Kind(1.0, None), Kind(0.5, None)], exact=True)

    assert partition.chains((1, 1))[0].bottleneck == 16
    assert sorted(map(len, partition.chains((1, 1))[0].cuts)) == [4, 8]


def test_a_boundary_costs_the_stages_at_either_side_and_lies_where_least_is_sent() -> None:
    made = chain(costs([4, 4, 4, 4], boundaries=(3, 9, 1, 0)), 2)

    assert bounds(made.cuts) == [0, 3, 4]
    assert (made.bottleneck, made.latency) == (13, 18)


def test_every_stage_and_every_read_microbatch_costs_time() -> None:
    made = chain(costs([4, 4], stage=2, load=5), 2)

    assert (made.bottleneck, made.latency) == (4 + 2 + 5, 2 * (4 + 2) + 5)


def test_familiar_cuts_are_those_that_are_held_if_they_are_nearly_as_fast() -> None:
    held = [frozenset(range(11)), frozenset(range(11, 20))]
    partition = Partition(costs([100] * 20), [Kind(1.0, None)], exact=False)
    best = partition.chains((2,))[0]

    assert bounds(partition.familiar(best, held, (1,) * 20, slack=0.1).cuts) == [0, 11, 20]
    assert bounds(partition.familiar(best, held, (1,) * 20, slack=0.09).cuts) == [0, 10, 20]


def test_equal_costs_stay_equal_whatever_floats_make_of_their_sums() -> None:
    ticks, tick = to_ticks([0.1] * 7)

    assert len(set(ticks)) == 1
    assert sum(ticks) * tick == pytest.approx(0.7)


def test_free_layers_count_alike() -> None:
    assert to_ticks([0.0, 0.0]) == ((1, 1), 0.0)

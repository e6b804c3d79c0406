"""Speeds and costs from what layers take where they run: noise tells nothing, and a slow slot is found."""

from hypothesis import given
from hypothesis import strategies as st

from holdfast.model.ids import NodeId, SlotId
from holdfast.model.measured import Measured
from holdfast.planner.straggler import learn

SLOTS = [SlotId(NodeId(f"node-{n}"), 0) for n in range(6)]
LAYERS = 4
# Two slots that differ so much each way differ by less than a told speed must change by.
_NOISE = st.floats(0.94, 1.06)
_COSTS = st.lists(st.floats(1, 3), min_size=LAYERS, max_size=LAYERS)
# Where each of three pipelines of two stages is cut.
_CUTS = st.lists(st.integers(1, LAYERS - 1), min_size=3, max_size=3)


def held_by(cuts: list[int]) -> dict[SlotId, range]:
    spans = [span for cut in cuts for span in (range(cut), range(cut, LAYERS))]
    return dict(zip(SLOTS, spans, strict=True))


def seen(
    held: dict[SlotId, range], costs: list[float], speeds: dict[SlotId, float], data: st.DataObject, machine: float = 1
) -> dict[SlotId, dict[int, float]]:
    return {
        slot: {layer: costs[layer] * machine * data.draw(_NOISE) / speeds.get(slot, 1.0) for layer in layers}
        for slot, layers in held.items()
    }


@given(_COSTS, _CUTS, st.floats(0.5, 4), st.data())
def test_noise_and_what_is_slow_for_all_never_make_a_slot_slow(
    costs: list[float], cuts: list[int], machine: float, data: st.DataObject
) -> None:
    measured = learn(Measured(), seen(held_by(cuts), costs, {}, data, machine), LAYERS, costs)
    assert measured.speeds == ()
    assert all(abs(now / (cost * machine) - 1) < 0.07 for now, cost in zip(measured.layer_s, costs, strict=True))


@given(_COSTS, _CUTS, _CUTS, st.sampled_from(SLOTS), st.floats(0.2, 0.8), st.data())
def test_a_slow_slot_is_found_within_noise_and_stays_told_in_another_layout(
    costs: list[float], cuts: list[int], others: list[int], slow: SlotId, speed: float, data: st.DataObject
) -> None:
    measured = learn(Measured(), seen(held_by(cuts), costs, {slow: speed}, data), LAYERS, costs)
    ((found, value),) = measured.speeds
    assert found == slow
    assert abs(value / speed - 1) < 0.15

    again = learn(measured, seen(held_by(others), list(measured.layer_s), dict(measured.speeds), data), LAYERS)
    assert again.speeds == measured.speeds


@given(_COSTS, st.sampled_from(SLOTS[:2]), st.floats(0.2, 0.8))
def test_a_slot_that_becomes_slow_is_found_also_where_each_layer_has_one_holder(
    costs: list[float], slow: SlotId, speed: float
) -> None:
    held = {SLOTS[0]: range(2), SLOTS[1]: range(2, LAYERS)}
    known = learn(Measured(), {slot: {n: costs[n] for n in mine} for slot, mine in held.items()}, LAYERS)
    assert known == Measured(layer_s=tuple(costs))

    now = {slot: {n: costs[n] / (speed if slot == slow else 1) for n in mine} for slot, mine in held.items()}
    assert dict(learn(known, now, LAYERS).speeds) == {slow: round(speed, 2)}


def test_without_a_profile_a_slot_that_was_slow_from_the_beginning_is_found_beside_those_who_share_its_layers() -> None:
    told = {slot: dict.fromkeys(range(LAYERS), 2.0 if slot == SLOTS[1] else 1.0) for slot in SLOTS[:3]}

    assert learn(Measured(), told, LAYERS) == Measured(layer_s=(1.0,) * LAYERS, speeds=((SLOTS[1], 0.5),))


def test_a_slot_with_next_to_nothing_to_do_is_not_judged() -> None:
    before = Measured(layer_s=(0.01, 1.0, 1.0))

    after = learn(before, {SLOTS[0]: {0: 0.03}, SLOTS[1]: {1: 1.0}, SLOTS[2]: {2: 1.0}}, 3)

    assert after == Measured(layer_s=(0.03, 1.0, 1.0))


def test_costs_of_layers_are_those_at_speed_1_and_what_nobody_computes_is_as_slow_as_the_rest() -> None:
    before = Measured(layer_s=(1.0, 2.0, 4.0), speeds=((SLOTS[1], 0.5),))

    after = learn(before, {SLOTS[0]: {0: 3.0}, SLOTS[1]: {1: 12.0}}, 3)

    assert after == Measured(layer_s=(3.0, 6.0, 12.0), speeds=((SLOTS[1], 0.5),))


def test_costs_are_known_only_once_all_layers_were_seen() -> None:
    assert learn(Measured(), {SLOTS[0]: {0: 1.0}}, 2) == Measured()
    assert learn(Measured(), {SLOTS[0]: {0: 1.0}, SLOTS[1]: {1: 2.0}}, 2) == Measured(layer_s=(1.0, 2.0))


def test_a_slot_that_recovers_is_of_speed_1_again_and_of_one_that_tells_nothing_the_last_is_true() -> None:
    before = Measured(layer_s=(1.0,), speeds=((SLOTS[0], 0.5), (SLOTS[1], 0.25)))

    after = learn(before, {SLOTS[0]: {0: 1.0}, SLOTS[2]: {0: 1.0}}, 1)

    assert after.speeds == ((SLOTS[1], 0.25),)


def test_what_no_clock_can_have_told_is_no_measurement() -> None:
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        assert learn(Measured(), {SLOTS[0]: {0: wrong}}, 1) == Measured()

"""Speeds from what steps take: noise tells nothing, and a slow slot is found."""

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.model.ids import NodeId, SlotId
from holdfast.planner.straggler import Caution, Speeds

SLOTS = [SlotId(NodeId(f"node-{n}"), 0) for n in range(6)]
CAUTION = Caution(steps=5)
# Two slots that differ so much each way differ by less than a told speed must change by.
_NOISE = st.floats(0.94, 1.06)
_WORK = st.dictionaries(st.sampled_from(SLOTS), st.floats(0.1, 10), min_size=2)


@settings(deadline=None)
@given(_WORK, st.data())
def test_noise_never_makes_a_slot_slow(foreseen: dict[SlotId, float], data: st.DataObject) -> None:
    speeds = Speeds(caution=CAUTION)
    for _ in range(12):
        machine = data.draw(st.floats(0.5, 4))  # a step that is slow for all
        noise = {slot: data.draw(_NOISE) for slot in sorted(foreseen)}
        speeds = speeds.observe({s: foreseen[s] * noise[s] * machine for s in noise}, foreseen)
        assert speeds.told == {}


@settings(deadline=None)
@given(st.sampled_from(SLOTS), st.floats(0.2, 0.8), st.data())
def test_a_slow_slot_is_found_within_noise_and_told_once(slow: SlotId, speed: float, data: st.DataObject) -> None:
    foreseen = dict.fromkeys(SLOTS, 1.0)
    speeds, told = Speeds(caution=CAUTION), set[float]()
    for _ in range(15):
        busy = {slot: data.draw(_NOISE) / (speed if slot == slow else 1) for slot in SLOTS}
        speeds = speeds.observe(busy, foreseen)
        assert set(speeds.told) <= {slow}
        told |= set(speeds.told.values())
    assert len(told) == 1
    assert abs(told.pop() / speed - 1) < 0.15


@settings(deadline=None)
@given(st.integers(0, 2), st.data())
def test_a_few_bad_steps_of_a_slot_change_nothing(bad: int, data: st.DataObject) -> None:
    foreseen = dict.fromkeys(SLOTS, 1.0)
    speeds = Speeds(caution=CAUTION)
    when = data.draw(st.sets(st.integers(0, CAUTION.steps - 1), min_size=bad, max_size=bad))
    for step in range(CAUTION.steps * 3):
        hiccup = 50.0 if step % CAUTION.steps in when else 1.0
        speeds = speeds.observe(foreseen | {SLOTS[0]: hiccup}, foreseen)
        assert speeds.told == {}


def test_a_slot_that_recovers_is_of_speed_1_again_and_one_that_left_is_forgotten() -> None:
    foreseen = dict.fromkeys(SLOTS, 1.0)
    speeds = Speeds(caution=CAUTION)
    for _ in range(CAUTION.steps):
        speeds = speeds.observe(foreseen | {SLOTS[0]: 2.0, SLOTS[1]: 4.0}, foreseen)
    assert speeds.told == {SLOTS[0]: 0.5, SLOTS[1]: 0.25}
    rest = {slot: seconds for slot, seconds in foreseen.items() if slot != SLOTS[1]}
    for _ in range(CAUTION.steps):
        speeds = speeds.observe(rest, foreseen)
    assert speeds.told == {}

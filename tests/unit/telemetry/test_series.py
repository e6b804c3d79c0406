"""What a run of days keeps of its steps is small, and says the same as if all were kept."""

import math
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from holdfast.model.plan import Plan
from holdfast.model.records import Cause
from holdfast.telemetry.recorder import Recorder
from holdfast.telemetry.series import Series
from unit.telemetry.conftest import Story, commit, plan

STEPS = st.one_of(st.integers(1, 400), st.integers(1, 10**12))


@given(told=st.lists(st.tuples(STEPS, st.floats(allow_nan=False), st.floats(allow_nan=False))), limit=STEPS)
def test_a_series_tells_what_it_was_told_last_of_each_step(told: list[tuple[int, float, float]], limit: int) -> None:
    series, expected = Series(), dict[int, tuple[float, float]]()
    for step, time_s, loss in told:
        series.add(step, time_s, loss)
        expected[step] = (time_s, loss)
    assert list(series) == [(step, *expected[step]) for step in sorted(expected)]
    assert (len(series), series.first, series.last) == (
        len(expected),
        min(expected, default=0),
        max(expected, default=0),
    )
    assert series.last_until(limit) == max((step for step in expected if step <= limit), default=0)
    for step in (*expected, limit):
        held = (series.time_s(step), series.loss(step))
        assert (held, step in series) == (expected.get(step, (None, None)), step in expected)


def test_a_loss_that_is_no_number_was_told(story: Story) -> None:
    series = Series()
    series.add(3, 1.0, math.nan)
    assert 3 in series
    assert series.loss(3) is not None
    assert series.loss(2) is None


def of_length(steps: int, layout: Plan) -> Recorder:
    story = Story(steps)
    story.joined("a", "b").begun(1, "ab", Cause.START).stopped(1, "ab").started(1, layout).running(1, "ab")
    for first in range(1, steps + 1, 500):
        story.commits(1, *(commit(step, float(step)) for step in range(first, first + 500)))
        story.told.clear()
    return story.recorder


def test_a_recorder_keeps_some_tens_of_bytes_a_step() -> None:
    layout = plan("a", "b")
    of_length(500, layout)  # what is made once
    tracemalloc.start()
    try:
        recorder = of_length(50_000, layout)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept / 50_000 < 40
    assert recorder.view().step == 50_000
    assert recorder.view().samples_per_s == 16.0
    report = recorder.report()
    assert (len(report.losses), report.losses[-1], report.goodput) == (50_000, 1 / 50_000, 1.0)


@given(st.lists(st.integers(1, 2000), max_size=40), st.integers(1, 2200))
def test_what_is_forgotten_is_as_if_never_told_but_for_a_page(told: list[int], before: int) -> None:
    series = Series()
    for step in told:
        series.add(step, float(step), 0.0)
    series.forget_before(before)
    kept = [step for step, _, _ in series]
    assert set(step for step in told if step >= before) <= set(kept) <= {step for step in told if step > before - 128}
    assert (len(series), series.first, series.last) == (len(kept), min(kept, default=0), max(kept, default=0))

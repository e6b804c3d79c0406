"""Hazards and worth: what the formulas say, against drawing it; what is chosen, against reacting at once."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.planner.hazard import MOMENT_PRIOR, Moments, Outlook, Prior, Rate
from holdfast.planner.worth import Option, best, worth

RATES = st.one_of(st.just(0.0), st.floats(1e-9, 1e4))  # steps per second; far below it, products underflow
SECONDS = st.floats(0.0, 1e5)
HAZARDS = st.one_of(st.just(0.0), st.floats(1e-7, 1.0))
OPTIONS = st.lists(st.builds(Option, RATES, SECONDS), min_size=1, max_size=8)


@given(OPTIONS, HAZARDS)
def test_what_is_taken_is_worth_no_less_than_anything_that_could_be(options: list[Option], hazard: float) -> None:
    taken = options[best(options, hazard)]

    assert all(worth(taken, hazard) >= worth(option, hazard) for option in options)


@given(OPTIONS, HAZARDS)
def test_it_is_never_worse_than_to_react_at_once_with_the_fastest(options: list[Option], hazard: float) -> None:
    fastest = max(options, key=lambda option: option.rate)

    assert worth(options[best(options, hazard)], hazard) >= worth(fastest, hazard)


@given(RATES, RATES, SECONDS, HAZARDS)
def test_no_gain_is_taken_that_the_transition_eats(now: float, then: float, seconds: float, hazard: float) -> None:
    stay, go = Option(now, 0.0), Option(then, seconds)
    if best([stay, go], hazard):
        assert then > now
        assert worth(go, hazard) > worth(stay, hazard)


@given(RATES, SECONDS, SECONDS, HAZARDS)
def test_longer_transitions_are_worth_less(rate: float, one: float, other: float, hazard: float) -> None:
    short, long = sorted((one, other))

    assert worth(Option(rate, short), hazard) >= worth(Option(rate, long), hazard)


@given(RATES, SECONDS, HAZARDS, HAZARDS)
def test_more_losses_are_worth_less(rate: float, seconds: float, one: float, other: float) -> None:
    rare, often = sorted((one, other))

    assert worth(Option(rate, seconds), rare) >= worth(Option(rate, seconds), often) * (1 - 1e-9)


@pytest.mark.parametrize(("hazard", "seconds"), [(1 / 600, 30.0), (1 / 60, 45.0), (1 / 7200, 300.0)])
def test_worth_is_the_mean_over_drawn_losses(hazard: float, seconds: float) -> None:
    draw, horizon_s = Random(5), 3600.0
    times = [min(draw.expovariate(hazard), horizon_s) for _ in range(100_000)]
    mean = sum(max(0.0, time_s - seconds) for time_s in times) / len(times)

    assert worth(Option(1.0, seconds), hazard, horizon_s) == pytest.approx(mean, rel=0.02)


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="rate: -1"):
        Option(-1.0, 0.0)
    with pytest.raises(ValueError, match="options"):
        best([], 0.1)


@given(st.lists(st.tuples(st.floats(0.1, 1e4), st.integers(0, 5)), min_size=1, max_size=30))
def test_the_plain_rate_is_events_over_time_with_the_prior_as_one_more_piece(pieces: list[tuple[float, int]]) -> None:
    rate = Rate.of(Prior(1.0, 600.0))
    for seconds, events in pieces:
        rate = rate.after(seconds, events)

    time_s, count = sum(seconds for seconds, _ in pieces), sum(events for _, events in pieces)
    assert rate.per_s == pytest.approx((1 + count) / (600 + time_s))


@given(st.integers(0, 2**32), st.floats(1 / 7200, 1 / 120))
def test_a_steady_market_is_learned(seed: int, hazard: float) -> None:
    draw, moments = Random(seed), Moments.of(MOMENT_PRIOR)
    for _ in range(400):
        moments = moments.after(draw.expovariate(hazard), 1)

    assert moments.plain.per_s == pytest.approx(hazard, rel=0.3)


def test_the_forecast_is_used_only_where_it_foretold_better() -> None:
    draw, moments = Random(1), Moments.of(MOMENT_PRIOR)
    for _ in range(200):
        moments = moments.after(draw.expovariate(1 / 600), 1)
    steady = moments
    for _ in range(30):
        moments = moments.after(draw.expovariate(1 / 60), 1)

    assert moments.lead > 0, "losses have become ten times as frequent, and the forecast has seen it"
    assert moments.per_s > 2 * moments.plain.per_s
    assert abs(steady.per_s - 1 / 600) < 1 / 600


@given(st.integers(1, 50), st.integers(1, 50))
def test_who_uses_fewer_of_the_nodes_is_hit_less_often(used: int, spare: int) -> None:
    outlook = Outlook()

    assert outlook.loss_per_s(used, used + spare) <= outlook.loss_per_s(used + spare, used + spare)
    assert outlook.loss_per_s(used + spare, used + spare) == pytest.approx(outlook.moments.per_s)


@given(st.lists(st.tuples(st.floats(0.1, 1e4), st.integers(0, 5)), max_size=20))
def test_an_outlook_that_was_written_down_goes_on_as_it_was(pieces: list[tuple[float, int]]) -> None:
    outlook = Outlook()
    for seconds, lost in pieces:
        outlook = outlook.after(seconds, lost)

    assert Outlook.of(outlook.written) == outlook

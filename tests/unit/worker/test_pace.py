"""What a worker tells of its pace: medians of steps, once enough was seen, and only what is news."""

import pytest
import torch

from holdfast.worker.pace import LayerClock, Pace


def steps(pace: Pace, count: int, seconds: float, *, begin_s: float, step_s: float = 0.5) -> float:
    """So many steps in which a microbatch takes `seconds` in either layer; when they are over."""
    for _ in range(count):
        begin_s += step_s
        pace.add({0: seconds, 1: seconds}, begin_s)
    return begin_s


def test_too_few_steps_and_too_little_time_say_nothing() -> None:
    pace = Pace()
    assert pace.known(100.0) == pace.news(100.0) == {}
    now_s = steps(pace, 40, 0.1, begin_s=0.0, step_s=0.05)
    assert pace.known(now_s) == {}, "two seconds of a machine say little, however many steps they hold"

    slow = Pace()
    now_s = steps(slow, 3, 0.1, begin_s=0.0, step_s=60.0)
    assert slow.known(now_s) == {}
    assert slow.known(steps(slow, 1, 0.1, begin_s=now_s, step_s=60.0)) == {0: 0.1, 1: 0.1}


def test_a_few_bad_steps_are_no_pace_and_neither_is_the_first() -> None:
    pace = Pace()
    now_s = steps(pace, 1, 9.0, begin_s=0.0)
    now_s = steps(pace, 12, 0.1, begin_s=now_s)
    now_s = steps(pace, 8, 5.0, begin_s=now_s)

    assert pace.known(now_s) == {0: 0.1, 1: 0.1}


def test_what_did_not_change_is_told_once() -> None:
    pace = Pace()
    now_s = steps(pace, 10, 0.1, begin_s=0.0)
    assert pace.news(now_s) == {0: 0.1, 1: 0.1}
    for seconds in (0.1, 0.105, 0.095):
        now_s = steps(pace, 30, seconds, begin_s=now_s)
        assert pace.news(now_s) == {}

    now_s = steps(pace, 30, 0.2, begin_s=now_s)
    assert pace.news(now_s) == {0: 0.2, 1: 0.2}
    assert pace.news(now_s) == {}


def test_what_the_inventory_told_is_no_news_in_the_next_generation_unless_other_layers_came() -> None:
    known = {0: 0.1, 1: 0.1}
    for told, is_news in (({**known, 2: 0.5}, False), ({0: 0.1}, True), ({0: 0.1, 1: 0.2}, True)):
        pace = Pace(told)
        assert pace.news(steps(pace, 30, 0.1, begin_s=0.0)) == (known if is_news else {})


def test_the_clock_tells_a_layers_forwards_and_backwards_of_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, marks = LayerClock(torch.device("cpu")), iter([0.0, 1.0, 1.0, 3.0, 10.0, 14.0, 15.0, 20.0, 20.5])
    monkeypatch.setattr(clock, "mark", lambda: next(marks))
    clock.begin_step()
    for layer in (0, 1):
        clock.forward(layer, clock.mark())
    clock.start_backward()
    clock.backward(1)
    clock.backward(0)
    assert clock.seconds() == {0: 1.0 + 1.0, 1: 2.0 + 4.0}

    clock.begin_step()
    clock.forward(0, clock.mark())
    assert clock.seconds() == {0: 0.5}

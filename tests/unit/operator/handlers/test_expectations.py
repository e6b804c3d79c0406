"""Nobody decides about a job from before his own deeds."""

from holdfast_operator.handlers.cache import Key
from holdfast_operator.handlers.client import ELASTIC_JOBS, PODS, Object
from holdfast_operator.handlers.expectations import Expectations

JOB, OTHER = ("n", "a"), ("n", "b")


def answer(version: int) -> Object:
    return {"metadata": {"resourceVersion": str(version)}}


def made() -> tuple[Expectations, list[Key]]:
    shown: list[Key] = []
    return Expectations(shown=shown.append), shown


def test_a_job_waits_until_all_that_was_written_for_it_is_seen() -> None:
    expectations, shown = made()
    expectations.wrote(JOB, PODS, answer(7), 0.0)
    expectations.wrote(JOB, PODS, answer(9), 0.0)
    expectations.wrote(JOB, ELASTIC_JOBS, answer(8), 0.0)
    expectations.reached(PODS, 8)
    expectations.reached(ELASTIC_JOBS, 20)
    assert expectations.wait_s(JOB, 1.0) > 0
    assert not shown
    expectations.reached(PODS, 9)
    assert expectations.wait_s(JOB, 1.0) == 0
    assert shown == [JOB]


def test_a_job_waits_for_nothing_of_another() -> None:
    expectations, _ = made()
    expectations.wrote(JOB, PODS, answer(7), 0.0)
    assert expectations.wait_s(OTHER, 0.0) == 0


def test_what_was_seen_before_the_answer_came_is_not_waited_for() -> None:
    expectations, _ = made()
    expectations.reached(PODS, 7)
    expectations.wrote(JOB, PODS, answer(7), 0.0)
    assert expectations.wait_s(JOB, 0.0) == 0


def test_nobody_waits_for_ever() -> None:
    expectations, _ = made()
    expectations.wrote(JOB, PODS, answer(7), 100.0)
    assert expectations.wait_s(JOB, 101.0) == 29.0
    assert expectations.wait_s(JOB, 131.0) == 0
    assert expectations.wait_s(JOB, 100.0) == 0


def test_a_version_that_is_no_number_is_not_waited_for() -> None:
    expectations, _ = made()
    expectations.wrote(JOB, PODS, {"metadata": {"resourceVersion": "x"}}, 0.0)
    expectations.wrote(JOB, PODS, {}, 0.0)
    assert expectations.wait_s(JOB, 0.0) == 0

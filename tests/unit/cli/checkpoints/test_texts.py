"""Sizes, ages and moments as people read and write them."""

import pytest

from holdfast.cli.checkpoints.texts import age_s, duration_text, moment_text, parse_duration
from holdfast.errors import UserError


def test_a_duration_is_read_with_its_unit() -> None:
    assert [parse_duration(text, "--x") for text in ("90s", "1.5min", "36h", "7d")] == [90, 90, 129600, 604800]
    with pytest.raises(UserError, match=r"--x: '7 days' given; should be a number with a unit, such as 15min"):
        parse_duration("7 days", "--x")


def test_a_duration_is_told_in_its_largest_unit() -> None:
    told = [duration_text(seconds) for seconds in (-1, 0, 119, 120, 7199, 7200, 172799, 172800)]

    assert told == ["0 s", "0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 d"]


def test_a_moment_is_shown_in_utc_wherever_it_was_written() -> None:
    assert moment_text("2026-01-02T03:04:05.678+02:00") == "2026-01-02 01:04:05"
    assert moment_text("yesterday") == "yesterday"


def test_an_age_counts_from_a_moment_of_any_zone() -> None:
    assert age_s("1970-01-01T01:00:00+01:00", 90.0) == 90
    assert age_s("1970-01-01T00:00:00", 90.0) == 90  # one without a zone is in UTC
    assert age_s("yesterday", 90.0) is None

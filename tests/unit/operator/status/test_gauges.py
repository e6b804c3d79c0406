"""How figures are written."""

import pytest

from holdfast_operator.status.gauges import percent, progress, rate


@pytest.mark.parametrize(
    ("per_s", "text"),
    [(None, ""), (0.0, "0"), (0.01234, "0.0123"), (12.345, "12.3"), (999.4, "999"), (1234.5, "1234"), (1e6, "1000000")],
)
def test_a_rate_has_three_figures(per_s: float | None, text: str) -> None:
    assert rate(per_s) == text


def test_a_share_is_written_in_percent() -> None:
    assert (percent(None), percent(0.98765), percent(1.0)) == ("", "98.8%", "100.0%")


def test_progress_is_steps_of_steps() -> None:
    assert progress(3, 40) == "3/40"

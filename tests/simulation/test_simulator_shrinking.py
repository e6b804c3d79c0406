"""A seed that fails is told in full, and made small: few faults, few nodes, the same broken promise."""

from functools import cache

import pytest
from typer.testing import CliRunner

from holdfast.control import departing
from holdfast.simulator import __main__ as command
from holdfast.simulator.batch import play_seeds
from holdfast.simulator.drawing import draw
from holdfast.simulator.faults import drain, join, kill, skip_time
from holdfast.simulator.network import Weather
from holdfast.simulator.scenario import Scenario
from holdfast.simulator.shrinking import Failure, failure_of, shrink

SEEDS_MAX = 1000


@pytest.fixture
def _draining_nodes_go_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug: who drains is let go whatever it holds."""
    monkeypatch.setattr(departing, "_is_spare", lambda job, view, node: True)


@cache
def first_failure() -> Failure:
    """With that bug, which every test here plants."""
    failures = (failure_of(draw(seed), seed) for seed in range(SEEDS_MAX))
    return next(failure for failure in failures if failure is not None)


@pytest.mark.usefixtures("_draining_nodes_go_at_once")
def test_a_failing_seed_is_shrunk_to_what_matters() -> None:
    small = shrink(first_failure())

    assert "with the only copy of some layers" in small.promise
    assert any(fault.kind in ("drain", "drain_leader") for fault in small.scenario.faults)
    assert len(small.scenario.faults) <= 2
    assert len(small.scenario.nodes) <= 2


@pytest.mark.usefixtures("_draining_nodes_go_at_once")
def test_a_shrunk_failure_fails_again_the_same_way() -> None:
    small = shrink(first_failure())

    assert failure_of(small.scenario, small.seed) == small


@pytest.mark.usefixtures("_draining_nodes_go_at_once")
def test_faults_and_weather_that_do_not_matter_are_left_out() -> None:
    scenario = Scenario(
        nodes="abc",
        memory=200,
        nodes_min=2,
        steps=6,
        weather=Weather(delay_s=0.05, drift=0.05),
        faults=(skip_time().at(step=1), join("d").at(step=1), drain("b").at(step=2), kill("d").at(step=3)),
    )
    failure = next(f for seed in range(20) if (f := failure_of(scenario, seed)) is not None)

    small = shrink(failure)

    assert [fault.kind for fault in small.scenario.faults] == ["drain"]
    assert small.scenario.weather == Weather()
    assert small.kind == failure.kind


@pytest.mark.usefixtures("_draining_nodes_go_at_once")
def test_the_command_tells_a_failure_shrunk_and_in_full_and_exits_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = play_seeds([first_failure().seed])
    monkeypatch.setattr(command, "_in_processes", lambda chosen, jobs: broken)

    done = CliRunner().invoke(command.app, ["--seeds", "1"])

    assert done.exit_code == 1
    assert "broken promises: 1" in done.output
    assert "shrunk to: nodes" in done.output
    assert "fault                drain" in done.output  # the transcript
    assert "with the only copy of some layers" in done.output

"""One seed is one trace: of calm and rough schedules, in this process and in others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.simulator.batch import trace_of
from holdfast.simulator.drawing import draw, draw_rough
from holdfast.simulator.network import Weather
from holdfast.simulator.scenario import play

SEEDS = 24
ELASTIC = Path(__file__).resolve().parents[2] / "elastic"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_one_seed_gives_one_trace_also_in_rough_weather(seed: int) -> None:
    assert play(draw_rough(seed), seed).transcript == play(draw_rough(seed), seed).transcript


def test_one_seed_gives_one_trace_in_every_process() -> None:
    """Whatever the hashes of strings, and so the order of sets, are there."""
    here = "".join(f"{seed} {trace_of(seed)}\n" for seed in range(SEEDS))

    assert traced(hash_seed=1) == here
    assert traced(hash_seed=4711) == here


def traced(*, hash_seed: int) -> str:
    command = [sys.executable, "-m", "holdfast.simulator", "--trace", "--seeds", str(SEEDS)]
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(ELASTIC)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout


def test_another_seed_gives_other_weather_and_another_trace() -> None:
    drawn = [draw_rough(seed).weather for seed in range(20)]

    assert len(set(drawn)) > 5
    assert Weather() not in drawn or len(set(drawn)) > 1
    assert len({trace_of(seed) for seed in range(8)}) == 8


def test_a_quarter_of_the_seeds_play_in_calm_weather() -> None:
    assert [draw(seed).weather == Weather() for seed in (0, 4, 8)] == [True] * 3
    assert draw(1) != draw(5)

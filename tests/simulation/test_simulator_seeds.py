"""Drawn schedules in rough weather: no promise is broken, and they do get everywhere."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.model.records import Cause
from holdfast.simulator.batch import Batch, play_seeds
from holdfast.simulator.drawing import draw_rough
from holdfast.simulator.scenario import play

SEEDS = 320
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_promise_is_broken_in_rough_weather(seed: int) -> None:
    play(draw_rough(seed), seed)


def test_drawn_schedules_get_everywhere() -> None:
    coverage = play_seeds(range(240), shrinking=False).coverage

    assert {f"generation:{cause}" for cause in Cause} - set(coverage.decisions) <= {"generation:stalled"}
    assert set(coverage.unseen_decisions) <= {"generation:stalled", "EvictNode"}


def test_a_batch_survives_its_way_through_json() -> None:
    batch = play_seeds(range(6))

    assert Batch.from_json(json.loads(json.dumps(batch.to_json()))) == batch


def test_batches_add_up() -> None:
    whole, parts = play_seeds(range(8)), play_seeds(range(5))
    parts.add(play_seeds(range(5, 8)))

    assert parts.simulated_s == pytest.approx(whole.simulated_s)
    assert replace(parts, simulated_s=0.0) == replace(whole, simulated_s=0.0)


def test_the_command_plays_seeds_in_processes_and_tells_what_they_covered(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "holdfast.simulator", "--seeds", "10", "--from", "3", "--json", str(report)]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(ROOT / "elastic")}, capture_output=True, text=True, check=False, timeout=120
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 seeds in" in done.stdout
    assert "broken promises: 0" in done.stdout
    assert "generation:start 1" in done.stdout
    assert json.loads(report.read_text())["seeds"] == 10

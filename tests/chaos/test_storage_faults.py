"""A few of the schedules that storage_soak.py plays by the hundred."""

from pathlib import Path

import pytest

from chaos.storage_soak import run_schedule, storage_schedule
from harness.realrun.jobs import Ended

pytestmark = [pytest.mark.chaos, pytest.mark.slow]


@pytest.mark.parametrize("seed", [0, 2])
def test_a_storage_that_fails_costs_no_bit_and_no_checkpoint_that_was_told_of(
    undisturbed: Ended, tmp_path: Path, seed: int
) -> None:
    ended, broken = run_schedule(storage_schedule(seed), tmp_path)

    assert ended.code == 0, ended.output
    assert ended.report["weights_sha256"] == undisturbed.report["weights_sha256"]
    assert not broken

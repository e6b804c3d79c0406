"""The undisturbed run that every disturbed one is compared with, computed once."""

import pytest

from harness.realrun.jobs import Ended, run_job, toy_spec


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """24 steps of the toy Program on one node."""
    folder = tmp_path_factory.mktemp("undisturbed")
    ended = run_job(toy_spec(folder, steps=24), folder / "out", "--nodes", "1")
    assert ended.code == 0, ended.output
    return ended

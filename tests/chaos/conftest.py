"""The undisturbed run that every disturbed one is compared with, computed once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.realrun import jobs
from harness.realrun.jobs import Ended
from harness.storage.s3_server import Kind, running_s3


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """24 steps of the toy Program on one node."""
    return jobs.undisturbed(tmp_path_factory.mktemp("undisturbed") / "run", steps=24)


@pytest.fixture
def checkpoint_url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where checkpoints go: "file" for a folder, "s3" for a bucket of a real S3 server on loopback."""
    if request.param == "file":
        yield str(tmp_path / "checkpoints")
        return
    with running_s3(tmp_path, Kind.MOTO, "bucket") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield "s3://bucket/toy"

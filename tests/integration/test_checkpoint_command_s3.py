"""`holdfast ckpt`, the real command, on a real S3 protocol server."""

import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from harness.storage.making import Making, make_checkpoint, make_unfinished
from harness.storage.s3_server import Kind, S3Server, running_s3
from holdfast_checkpoint.remote import Repository

Ckpt = Callable[..., tuple[int, str, str]]

SMALL = Making(layers=("only",))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3"), Kind.MOTO, "bucket") as server:
        yield server


@pytest.fixture
def url(server: S3Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A place of its own for each test, whose process may use the server."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://bucket/{request.node.name}"


@pytest.fixture
def ckpt(server: S3Server) -> Ckpt:
    """`ckpt(*arguments)` as in a shell: exit code, standard output, standard error."""

    def call(*arguments: object, **environment: str) -> tuple[int, str, str]:
        ended = subprocess.run(
            [sys.executable, "-m", "holdfast.cli.main", "ckpt", *map(str, arguments)],
            env=os.environ | server.environment | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return ended.returncode, ended.stdout, ended.stderr

    return call


@pytest.fixture
def closed(server: S3Server) -> Iterator[None]:
    """The server lets nobody in: it knows no keys at all."""
    authorize(server, after="0")
    yield
    authorize(server, after="inf")


def authorize(server: S3Server, after: str) -> None:
    """moto looks at credentials only after so many requests; any may be used until then."""
    address = f"{server.endpoint}/moto-api/reset-auth"
    # Said to be text, since what looks like a form is taken for one.
    request = urllib.request.Request(address, data=after.encode(), headers={"Content-Type": "text/plain"})
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10).close()


def listed(url: str) -> list[tuple[int, bool]]:
    return [(one.step, one.is_committed) for one in Repository(url).list()]


@pytest.mark.slow
def test_prune_deletes_what_is_old_and_leaves_what_is_sound(url: str, ckpt: Ckpt) -> None:
    for step in (10, 20):
        make_checkpoint(url, step, SMALL)
    make_unfinished(url, 5, SMALL)
    make_unfinished(url, 30, SMALL)
    before, rules = listed(url), ("--keep-last", 1, "--older-than", "0s")

    code, output, error = ckpt("prune", url, *rules)
    assert code == 0, error
    assert output.count("would delete") == 2
    assert listed(url) == before

    code, _, error = ckpt("prune", url, *rules, "--yes")
    assert code == 0, error
    assert listed(url) == [(20, True), (30, False)]
    assert Repository(url).verify(Repository(url).newest()[0]) == ()


@pytest.mark.slow
def test_a_bucket_that_is_not_there_is_named(url: str, ckpt: Ckpt) -> None:
    code, output, error = ckpt("ls", url.replace("bucket", "no-bucket-here"))

    assert (code, output) == (2, "")
    assert "s3://no-bucket-here" in error
    assert "no such bucket" in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_a_bucket_without_a_checkpoint_is_told_from_none(url: str, ckpt: Ckpt) -> None:
    code, _, error = ckpt("ls", url)

    assert code == 2
    assert f"{url}: there is no checkpoint there" in error


@pytest.mark.slow
def test_credentials_that_are_not_known_are_wrong_input(url: str, ckpt: Ckpt, closed: None) -> None:
    code, output, error = ckpt("ls", url)

    assert (code, output) == (2, "")
    assert "s3://bucket" in error
    assert "the access key is not known there" in error or "credentials do not allow it" in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_without_credentials_it_is_said_where_they_should_be(url: str, ckpt: Ckpt) -> None:
    code, _, error = ckpt("ls", url, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")

    assert code == 2
    assert "set them in the environment" in error

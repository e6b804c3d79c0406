"""Secrets come from the environment or from files nobody else may read, and go no further."""

import os
from pathlib import Path

import pytest

from holdfast.cli.access import read_access, read_secret
from holdfast.cli.target import Target
from holdfast.errors import UserError
from holdfast.stores.address import parse_store

SECRET = "a secret of some length"


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("HOLDFAST_")]:
        monkeypatch.delenv(name)


def test_the_secret_is_taken_out_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_SECRET", SECRET)

    assert read_secret() == SECRET.encode()
    assert "HOLDFAST_SECRET" not in os.environ


@pytest.mark.parametrize(("mode", "is_taken"), [(0o600, True), (0o400, True), (0o640, False), (0o604, False)])
def test_a_secret_file_that_others_may_read_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: int, is_taken: bool
) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    path.chmod(mode)
    monkeypatch.setenv("HOLDFAST_SECRET_FILE", str(path))

    if is_taken:
        assert read_secret() == SECRET.encode()
    else:
        with pytest.raises(UserError, match=f"has mode {mode:04o}.*chmod 600"):
            read_secret()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize(
    ("owner", "mode", "is_taken"), [(0, 0o440, True), (0, 0o444, False), (0, 0o460, False), (1, 0o440, False)]
)
def test_a_secret_that_kubernetes_mounts_for_a_group_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, owner: int, mode: int, is_taken: bool
) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    path.chmod(mode)
    os.chown(path, owner, 1000)
    monkeypatch.setenv("HOLDFAST_SECRET_FILE", str(path))

    if is_taken:
        assert read_secret() == SECRET.encode()
    else:
        with pytest.raises(UserError, match=f"has mode {mode:04o}"):
            read_secret()


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({}, "neither is set"),
        ({"HOLDFAST_SECRET": "short"}, "has 5 bytes"),
        ({"HOLDFAST_SECRET": SECRET, "HOLDFAST_SECRET_FILE": "/x"}, "both are set"),
        ({"HOLDFAST_SECRET_FILE": "/there/is/no/such/file"}, "cannot be read: No such file"),
    ],
)
def test_a_secret_that_is_missing_or_said_twice_is_an_error(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], complaint: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(UserError, match=complaint):
        read_secret()


def test_no_secret_shows_where_a_target_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_STORE_USER", "somebody")
    monkeypatch.setenv("HOLDFAST_STORE_PASSWORD", "the-password")
    target = Target(job="j", address=parse_store("etcd://a:1"), access=read_access(SECRET.encode()))

    assert "the-password" not in repr(target) + repr(target.access)
    assert SECRET not in repr(target) + repr(target.access)


@pytest.mark.parametrize("has_client", [True, False])
def test_a_mounted_folder_of_certificates_is_used_as_far_as_it_goes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, has_client: bool
) -> None:
    for name in ("ca.crt", *(("tls.crt", "tls.key") if has_client else ())):
        (tmp_path / name).touch()
    monkeypatch.setenv("HOLDFAST_STORE_TLS", str(tmp_path))
    access = read_access(SECRET.encode())

    assert access.ca == tmp_path / "ca.crt"
    client = (tmp_path / "tls.crt", tmp_path / "tls.key") if has_client else (None, None)
    assert (access.certificate, access.key) == client

"""Why a command ended stands where a cluster shows it, whole if it fits."""

from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.cli.ending import TERMINATION_LOG, tell_end

Holdfast = Callable[..., tuple[int, str, str]]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "termination-log"
    monkeypatch.setenv(TERMINATION_LOG, str(path))
    return path


def test_wrong_input_is_told_whole(told: Path, holdfast: Holdfast, spec: Path) -> None:
    code, _, error = holdfast("validate", spec, "--set", "steps=-1")
    assert code == 2
    assert told.read_text() == error.removeprefix("holdfast: error: ").strip()


def test_a_traceback_of_the_users_code_comes_after_the_message(told: Path, holdfast: Holdfast, spec: Path) -> None:
    code, _, _ = holdfast("validate", spec, "--set", "program.entry=small.py:broken")
    assert code == 2
    message, _, traceback = told.read_text().partition("\n")
    assert message.startswith("program.entry: ")
    assert traceback.strip().endswith("RuntimeError: no model today")


def test_a_wrong_environment_is_told(told: Path, holdfast: Holdfast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_SLOTS", "many")
    assert holdfast("agent", "--job", "a", "--store", "b", "--node", "c", "--address", "d")[0] == 2
    assert "environment variable is wrong" in told.read_text()


def test_a_good_end_is_not_told(told: Path, holdfast: Holdfast, spec: Path) -> None:
    assert holdfast("validate", spec)[0] == 0
    assert not told.exists()


def test_of_a_long_reason_beginning_and_end_stay(told: Path) -> None:
    tell_end("first " + "é" * 5000 + " last")
    data = told.read_bytes()
    assert len(data) <= 4096
    assert data.decode().startswith("first é")
    assert data.decode().endswith("é last")
    assert "\n[...]\n" in data.decode()


def test_a_file_that_cannot_be_written_ends_nothing_otherwise(
    told: Path, monkeypatch: pytest.MonkeyPatch, holdfast: Holdfast, spec: Path
) -> None:
    monkeypatch.setenv(TERMINATION_LOG, str(told.parent))
    assert holdfast("validate", spec, "--set", "steps=-1")[0] == 2

"""What a submission reads is out of reach of the user's code, and a bug of ours ends it in a way of its own."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.cli import submitting
from holdfast.cli.preparing import Prepared, Wish, prepare

Holdfast = Callable[..., tuple[int, str, str]]
SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def submit(
    holdfast: Holdfast, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], tuple[int, str, str]]:
    """To a store that is not there."""
    monkeypatch.setenv("HOLDFAST_SECRET", SECRET)
    monkeypatch.setenv("HOLDFAST_STORE_USER", "someone")
    monkeypatch.setenv("HOLDFAST_STORE_PASSWORD", "pass-the-word")
    return lambda: holdfast("submit", spec, "--store", "embedded://127.0.0.1:1", "--out", "")


def test_the_users_program_is_built_without_the_secrets_in_the_environment(
    submit: Callable[[], tuple[int, str, str]], spec: Path, tmp_path: Path
) -> None:
    seen = tmp_path / "environment.json"
    program = spec.parent / "small.py"
    told = f"\nimport json, os, pathlib\npathlib.Path({str(seen)!r}).write_text(json.dumps(dict(os.environ)))\n"
    program.write_text(program.read_text() + told)
    code, _, error = submit()
    assert (code, "does not answer" in error) == (1, True)
    environment = json.loads(seen.read_text())
    assert not {name for name, value in environment.items() if value in (SECRET, "pass-the-word")}


def test_a_bug_of_ours_ends_in_a_traceback_and_an_exit_code_of_its_own(
    submit: Callable[[], tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(wish: Wish) -> Prepared:
        prepare(wish)
        raise RuntimeError("ours")

    monkeypatch.setattr(submitting, "prepare", broken)
    code, _, error = submit()
    assert code == 70
    assert error.startswith("Traceback")
    assert error.strip().endswith("RuntimeError: ours")

"""`ckpt verify`: every byte is read, and whatever is bad is named."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from harness.storage.making import (
    blob_of,
    flip_byte,
    folders_of,
    make_unfinished,
    storage_of,
)
from holdfast_checkpoint.remote import Repository

Holdfast = Callable[..., tuple[int, str, str]]
Ckpt = Callable[..., Any]


def test_verify_finds_a_sound_checkpoint_sound(url: str, ckpt: Ckpt, holdfast: Holdfast) -> None:
    verified = ckpt("verify", url)["checkpoints"]

    assert [(one["step"], one["sound"], one["layers"]) for one in verified] == [(30, True, 3)]
    assert "sound" in holdfast("ckpt", "verify", url)[1]


@pytest.mark.parametrize("at", [0, 9, -1])
def test_verify_names_a_flipped_byte_by_layer_and_range(url: str, holdfast: Holdfast, at: int) -> None:
    blob = blob_of(url, folders_of(url)[-1], 1)
    flip_byte(blob, at)

    code, output, _ = holdfast("ckpt", "verify", url)

    assert code == 1
    assert "BROKEN" in output
    assert "middle" in output
    assert f"between bytes 0 and {blob.stat().st_size}" in output


def test_verify_names_every_bad_blob(url: str, ckpt: Ckpt) -> None:
    folder = folders_of(url)[-1]
    flip_byte(blob_of(url, folder, 0), -1)
    blob_of(url, folder, 2).unlink()

    problems = ckpt("verify", url, code=1)["checkpoints"][0]["problems"]

    assert len(problems) == 2
    assert "first" in problems[0]
    assert "last" in problems[1]


def test_verify_names_a_blob_that_lost_its_end(url: str, ckpt: Ckpt) -> None:
    blob = blob_of(url, folders_of(url)[-1], 0)
    content = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(content[:-4])

    (problem,) = ckpt("verify", url, code=1)["checkpoints"][0]["problems"]

    assert "first" in problem


def test_verify_takes_a_broken_manifest_of_the_newest_for_broken(url: str, ckpt: Ckpt) -> None:
    flip_byte(storage_of(url) / folders_of(url)[-1] / "manifest.json", 40)

    (verified,) = ckpt("verify", url, code=1)["checkpoints"]

    assert (verified["step"], verified["sound"]) == (30, False)


def test_verify_all_goes_on_after_a_broken_one(url: str, ckpt: Ckpt) -> None:
    unfinished = make_unfinished(url, 40)
    flip_byte(blob_of(url, folders_of(url)[0], 2), -1)

    verified = ckpt("verify", url, "--all", code=1)

    assert [(one["step"], one["sound"]) for one in verified["checkpoints"]] == [(10, False), (20, True), (30, True)]
    assert verified["half_written"] == [unfinished]


def test_verify_all_does_not_mind_one_that_is_deleted_meanwhile(
    url: str, ckpt: Ckpt, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, verify = folders_of(url)[0], Repository.verify

    def verify_late(repository: Repository, folder: str, on_bytes: Callable[[int], None]) -> Any:
        if folder == first:
            shutil.rmtree(storage_of(url) / folder)
        return verify(repository, folder, on_bytes)

    monkeypatch.setattr(Repository, "verify", verify_late)

    assert [one["step"] for one in ckpt("verify", url, "--all")["checkpoints"]] == [20, 30]


def test_a_progress_bar_is_shown_on_a_terminal_alone(
    url: str, holdfast: Holdfast, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["ckpt", "verify", url]
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert holdfast(*command)[2] == ""

    ours, theirs = os.openpty()
    watched = subprocess.Popen(
        [sys.executable, "-m", "holdfast.cli.main", *command], stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    shown = read_terminal(ours)
    output, _ = watched.communicate()

    assert watched.returncode == 0
    assert b"step 30" in shown
    assert b"step 30" not in output


def read_terminal(terminal: int) -> bytes:
    """All, until nobody writes to it any more."""
    shown = b""
    with open(terminal, "rb", buffering=0) as file, contextlib.suppress(OSError):  # how Linux says that it is over
        while piece := file.read(4096):
            shown += piece
    return shown


def test_verify_refuses_all_and_one(url: str, holdfast: Holdfast) -> None:
    code, _, error = holdfast("ckpt", "verify", url, "--all", "--step", 10)

    assert code == 2
    assert "--step 10" in error

"""`ckpt prune`: what goes, what stays, and that nothing goes unasked."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.storage.making import (
    Making,
    blob_of,
    flip_byte,
    folders_of,
    make_checkpoint,
    make_unfinished,
    storage_of,
)
from holdfast_checkpoint.remote import Repository

Holdfast = Callable[..., tuple[int, str, str]]
Ckpt = Callable[..., Any]


def test_prune_without_yes_deletes_nothing_and_says_what_would_go(url: str, ckpt: Ckpt, holdfast: Holdfast) -> None:
    before = folders_of(url)

    told = ckpt("prune", url, "--keep-last", 1)

    assert [one["folder"] for one in told["going"]] == before[:2]
    assert (told["deleted"], folders_of(url)) == (False, before)
    assert "--yes" in holdfast("ckpt", "prune", url, "--keep-last", 1)[1]


def test_prune_keeps_the_last_and_every_kth(url: str, ckpt: Ckpt) -> None:
    make_checkpoint(url, 40)
    before = folders_of(url)

    told = ckpt("prune", url, "--keep-last", 1, "--keep-every", 20, "--yes")

    assert told["deleted"]
    assert folders_of(url) == [before[1], before[3]]
    assert all(one["sound"] for one in ckpt("verify", url, "--all")["checkpoints"])


def test_prune_never_deletes_the_newest_sound_one(url: str, ckpt: Ckpt) -> None:
    flip_byte(storage_of(url) / folders_of(url)[-1] / "manifest.json", 40)
    sound = folders_of(url)[1]

    ckpt("prune", url, "--keep-last", 1, "--yes")

    assert sound in folders_of(url)


def test_prune_does_not_take_a_checkpoint_with_a_corrupt_blob_for_the_one_to_keep(
    url: str, ckpt: Ckpt, holdfast: Holdfast
) -> None:
    folders = folders_of(url)
    flip_byte(blob_of(url, folders[-1], 1), -1)

    told = ckpt("prune", url, "--keep-last", 1)
    assert [one["folder"] for one in told["going"]] == folders[:1]
    assert [one["state"] for one in told["staying"]] == ["committed", "broken"]
    assert "middle" in holdfast("ckpt", "prune", url, "--keep-last", 1)[2]

    told = ckpt("prune", url, "--keep-last", 1, "--no-verify")
    assert [one["folder"] for one in told["going"]] == folders[:2]


def grow_old(url: str, folder: str, days: float = 3) -> None:
    """As if nothing had been written to it for so long."""
    at_s = time.time() - 86_400 * days
    for path in (storage_of(url) / folder).iterdir():
        os.utime(path, (at_s, at_s))


def test_prune_counts_the_run_that_wrote_last_as_the_newest(url: str, ckpt: Ckpt) -> None:
    for folder in folders_of(url):
        grow_old(url, folder)
    resumed = make_checkpoint(url, 15, Making(run="0" * 32, created="2026-01-03T00:00:00+00:00"))

    ckpt("prune", url, "--keep-last", 1, "--yes")

    assert folders_of(url) == [resumed]


def test_prune_collects_only_old_half_written_ones(url: str, tmp_path: Path, ckpt: Ckpt) -> None:
    unfinished = make_unfinished(url, 5)

    ckpt("prune", url, "--yes")
    assert unfinished in folders_of(url)

    ckpt("prune", url, "--yes", "--older-than", "0s")
    assert unfinished not in folders_of(url)
    assert len(folders_of(url)) == 3


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["--keep-last", "0"], "--keep-last"), (["--older-than", "soon"], "should be a number with a unit")],
)
def test_prune_refuses_rules_that_make_no_sense(
    url: str, holdfast: Holdfast, arguments: list[str], complaint: str
) -> None:
    code, _, error = holdfast("ckpt", "prune", url, *arguments)

    assert code == 2
    assert complaint in error


def test_prune_leaves_alone_what_somebody_restores_from(url: str, ckpt: Ckpt) -> None:
    before = folders_of(url)
    Repository(url).say_reading(before[0])

    told = ckpt("prune", url, "--keep-last", 1, "--yes")

    assert [one["folder"] for one in told["going"]] == [before[1]]
    assert folders_of(url) == [before[0], before[2]]


def test_what_was_restored_from_long_ago_may_go(url: str, ckpt: Ckpt) -> None:
    before = folders_of(url)
    Repository(url).say_reading(before[0])
    grow_old(url, before[0])

    ckpt("prune", url, "--keep-last", 1, "--yes")

    assert folders_of(url) == before[2:]


def test_prune_spares_what_a_restore_begins_to_read_while_it_deletes(
    url: str, ckpt: Ckpt, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, delete = folders_of(url), Repository.delete

    def begin_to_read(repository: Repository, folder: str) -> None:
        delete(repository, folder)
        repository.say_reading(before[1])

    monkeypatch.setattr(Repository, "delete", begin_to_read)
    told = ckpt("prune", url, "--keep-last", 1, "--yes")

    assert [one["folder"] for one in told["going"]] == [before[0]]
    assert folders_of(url) == before[1:]


def test_prune_keeps_what_each_run_that_may_live_would_go_on_from(url: str, ckpt: Ckpt) -> None:
    making = Making(run="other", created="2025-01-02T00:00:00+00:00")
    older, newest = make_checkpoint(url, 4, making), make_checkpoint(url, 5, making)

    ckpt("prune", url, "--keep-last", 1, "--yes")
    assert newest in folders_of(url)
    assert older not in folders_of(url)

    grow_old(url, newest)
    ckpt("prune", url, "--keep-last", 1, "--yes")
    assert newest not in folders_of(url), "that run has written nothing for a day"

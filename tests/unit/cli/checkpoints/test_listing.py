"""`ckpt ls`: every checkpoint is shown, with what is wrong with it."""

from collections.abc import Callable
from typing import Any

from harness.storage.making import (
    RUN,
    flip_byte,
    folders_of,
    make_checkpoint,
    make_unfinished,
    storage_of,
)

Holdfast = Callable[..., tuple[int, str, str]]
Ckpt = Callable[..., Any]


def test_ls_shows_every_checkpoint_newest_last(url: str, holdfast: Holdfast) -> None:
    code, output, _ = holdfast("ckpt", "ls", url)

    rows = [line.split() for line in output.splitlines() if "committed" in line]
    assert code == 0
    assert [row[:3] for row in rows] == [["10", "committed", "1"], ["20", "committed", "1"], ["30", "committed", "1"]]
    assert all(RUN[:8] in row and "2026-01-02" in row for row in rows)
    assert [row[-1] for row in rows] == folders_of(url)


def test_ls_as_json_tells_size_layers_and_age(url: str, ckpt: Ckpt) -> None:
    newest = ckpt("ls", url)["checkpoints"][-1]

    on_disk = sum(path.stat().st_size for path in (storage_of(url) / newest["folder"]).glob("*.safetensors"))
    assert (newest["step"], newest["run"], newest["generation"], newest["job"]) == (30, RUN, 1, "small")
    assert (newest["state"], newest["layers"], newest["bytes"]) == ("committed", 3, on_disk)
    assert newest["age_s"] > 0


def test_ls_tells_half_written_from_committed(url: str, ckpt: Ckpt, holdfast: Holdfast) -> None:
    make_unfinished(url, 40)

    listed = ckpt("ls", url)["checkpoints"]
    assert [(one["step"], one["state"]) for one in listed][-2:] == [(30, "committed"), (40, "half-written")]
    assert listed[-1]["bytes"] is None
    assert "half-written" in holdfast("ckpt", "ls", url)[1]


def test_ls_names_a_broken_manifest_and_exits_with_1(url: str, ckpt: Ckpt) -> None:
    folder = folders_of(url)[1]
    flip_byte(storage_of(url) / folder / "manifest.json", 40)

    listed = ckpt("ls", url, code=1)["checkpoints"]

    assert [one["state"] for one in listed] == ["committed", "broken", "committed"]
    assert folder in listed[1]["problem"]


def test_a_storage_of_another_protocol_is_read_the_same(ckpt: Ckpt) -> None:
    url = "memory://listing/there"
    folder = make_checkpoint(url, 7)

    assert [one["folder"] for one in ckpt("ls", url)["checkpoints"]] == [folder]
    assert ckpt("verify", url)["checkpoints"][0]["sound"]

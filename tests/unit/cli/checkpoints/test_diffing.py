"""`ckpt diff`: what two checkpoints do not share, and by how much."""

import shutil
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
    storage_of,
)
from holdfast.cli.checkpoints import comparing
from holdfast.cli.checkpoints.comparing import Side, bytes_to_read, compare_layers
from holdfast_checkpoint.remote import Repository

Holdfast = Callable[..., tuple[int, str, str]]
Ckpt = Callable[..., Any]


def test_diff_tells_which_tensors_differ_and_by_how_much(url: str, ckpt: Ckpt, holdfast: Holdfast) -> None:
    difference = ckpt("diff", url, "--step", 10, "--step", 30)

    assert (difference["a"]["step"], difference["b"]["step"], difference["same"]) == (10, 30, False)
    for layer in difference["layers"]:
        found = {change["name"]: change for change in layer["changes"]}
        assert set(found) == {"optim.step.weight", "model.weight", "optim.exp_avg.weight"}
        assert (found["optim.step.weight"]["a"], found["optim.step.weight"]["b"]) == ("10", "30")
        assert found["model.weight"]["max_abs"] == pytest.approx(20, rel=1e-5)
        assert found["optim.exp_avg.weight"]["max_abs"] == pytest.approx(10, rel=1e-5)
        assert (found["model.weight"]["items"], found["model.weight"]["differing"]) == (16, 4)
    assert "3 of 3 layers differ" in holdfast("ckpt", "diff", url, "--step", 10, "--step", 30)[1]


def test_diff_of_the_same_state_in_two_storages_finds_nothing(url: str, tmp_path: Path, ckpt: Ckpt) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(storage_of(url), copy)

    difference = ckpt("diff", url, f"file://{copy}", "--exit-code")

    assert difference["same"]
    assert all(layer["same"] for layer in difference["layers"])


def test_diff_exits_with_1_for_a_difference_only_if_asked(url: str, holdfast: Holdfast) -> None:
    assert holdfast("ckpt", "diff", url, "--step", 10, "--step", 20)[0] == 0
    assert holdfast("ckpt", "diff", url, "--step", 10, "--step", 20, "--exit-code")[0] == 1


def test_diff_of_two_models_names_layers_shapes_and_identity(url: str, tmp_path: Path, ckpt: Ckpt) -> None:
    other = f"file://{tmp_path / 'other'}"
    making = Making(layers=("first", "more"), width=5, identity={"global_batch": 16, "optimizer": {"name": "Adam"}})
    make_checkpoint(other, 30, making)

    difference = ckpt("diff", url, other)

    assert difference["identity"] == {"global_batch": {"a": 8, "b": 16}, "optimizer.lr": {"a": 0.1, "b": None}}
    changes = {layer["layer"]: layer["changes"] for layer in difference["layers"]}
    assert {change["what"] for change in changes["first"]} == {"dtype or shape"}  # the same step: the same scalars
    assert changes["middle"] == [{"name": "", "what": "only in a"}]
    assert changes["more"] == [{"name": "", "what": "only in b"}]
    weight = next(change for change in changes["first"] if change["name"] == "model.weight")
    assert (weight["a"], weight["b"]) == ("F32[4, 4]", "F32[5, 5]")


@pytest.mark.parametrize("arguments", [[], ["--step", 10], ["--step", 10, "--folder", "x"]])
def test_diff_with_one_url_needs_two_checkpoints(url: str, holdfast: Holdfast, arguments: list[object]) -> None:
    code, _, error = holdfast("ckpt", "diff", url, *arguments)

    assert code == 2
    assert "should be URL with --step twice" in error


def test_diff_does_not_compare_what_is_corrupt(url: str, holdfast: Holdfast) -> None:
    flip_byte(blob_of(url, folders_of(url)[0], 1), -1)

    code, _, error = holdfast("ckpt", "diff", url, "--step", 10, "--step", 20)

    assert code == 1
    assert "middle" in error
    assert "corrupt" in error


@pytest.mark.parametrize("chunk_bytes", [100, 256, 1000])
def test_diff_finds_the_same_however_the_blobs_are_cut(
    tmp_path: Path, ckpt: Ckpt, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    """Chunks and pieces whose ends fall within tensors, and the two sides cut differently."""
    whole, cut = f"file://{tmp_path}/whole", f"file://{tmp_path}/cut"
    for step in (10, 30):
        make_checkpoint(whole, step, Making(width=11))
        make_checkpoint(cut, step, Making(width=11, chunk_bytes=chunk_bytes))
    expected = ckpt("diff", whole, "--step", 10, "--step", 30)["layers"]

    monkeypatch.setattr(comparing, "_PIECE_BYTES", 64)

    assert ckpt("diff", cut, "--step", 10, "--step", 30)["layers"] == expected
    assert ckpt("diff", whole, cut, "--step", 10, "--step", 30)["layers"] == expected


def test_diff_reads_no_byte_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository, making = Repository(f"file://{tmp_path}"), Making(width=20, chunk_bytes=300)
    a, b = (
        Side(repository=repository, folder=folder, manifest=repository.read_manifest(folder))
        for folder in (make_checkpoint(repository.url, step, making) for step in (10, 30))
    )
    monkeypatch.setattr(comparing, "_PIECE_BYTES", 64)
    read: list[int] = []

    compared = list(compare_layers(a, b, read.append))

    assert len(compared) == 3
    assert 0 < sum(read) <= bytes_to_read(a, b)

"""`ckpt export`: one file with what the checkpoint holds, or none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.storage.making import (
    Making,
    blob_of,
    flip_byte,
    folders_of,
    tensors_of,
)

Holdfast = Callable[..., tuple[int, str, str]]
Ckpt = Callable[..., Any]


def test_export_writes_the_weights_by_layer_and_parameter(url: str, tmp_path: Path, ckpt: Ckpt) -> None:
    from safetensors.numpy import load_file

    target = tmp_path / "weights.safetensors"
    told = ckpt("export", url, "--step", 20, "--to", target)

    exported = load_file(target)
    assert set(exported) == {f"{layer}.{name}" for layer in Making().layers for name in ("weight", "bias")}
    for layer in Making().layers:
        expected = tensors_of(Making(), layer, 20)
        assert np.array_equal(exported[f"{layer}.weight"], expected["model.weight"])
    assert (told["step"], told["path"], told["bytes"]) == (20, str(target), target.stat().st_size)


def test_export_with_the_optimizer_holds_all_state(url: str, tmp_path: Path, ckpt: Ckpt) -> None:
    from safetensors.numpy import load_file

    target = tmp_path / "all.safetensors"
    ckpt("export", url, "--to", target, "--what", "all")

    held = [array for array in load_file(target).values() if array.dtype == np.float32]
    for layer in Making().layers:
        for expected in tensors_of(Making(), layer, 30).values():
            assert any(np.array_equal(array, expected) for array in held)


def test_export_to_pt_is_loaded_by_torch_without_unpickling_code(url: str, tmp_path: Path, ckpt: Ckpt) -> None:
    import torch

    target = tmp_path / "weights.pt"
    ckpt("export", url, "--to", target)

    state = torch.load(target, weights_only=True)  # noqa: TID251 - what a user does with the file
    expected = tensors_of(Making(), "middle", 30)["model.weight"]
    assert np.array_equal(state["middle.weight"].numpy(), expected)


def test_export_neither_replaces_a_file_unasked_nor_leaves_part_of_one(
    url: str, tmp_path: Path, holdfast: Holdfast
) -> None:
    target = tmp_path / "weights.safetensors"
    target.write_text("mine", encoding="utf-8")

    code, _, error = holdfast("ckpt", "export", url, "--to", target)
    assert code == 2
    assert "--overwrite" in error

    flip_byte(blob_of(url, folders_of(url)[-1], 2), -1)
    code, _, error = holdfast("ckpt", "export", url, "--to", target, "--overwrite")
    assert code == 1
    assert "last" in error
    assert target.read_text(encoding="utf-8") == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["storage", "weights.safetensors"]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("weights.bin", "should end in .safetensors or .pt"), ("missing/weights.pt", "no such folder")],
)
def test_export_refuses_a_target_that_it_cannot_write(
    url: str, tmp_path: Path, holdfast: Holdfast, name: str, complaint: str
) -> None:
    code, _, error = holdfast("ckpt", "export", url, "--to", tmp_path / name)

    assert code == 2
    assert complaint in error

"""A checkpoint without Holdfast's trainer: what a job wrote comes out as plain tensors and files, bit for bit."""

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from holdfast_checkpoint.blob import write_blob
from holdfast_checkpoint.digest import digest_of
from holdfast_checkpoint.errors import CheckpointError, CorruptError, NoCheckpointError
from holdfast_checkpoint.folders import folder_of
from holdfast_checkpoint.loading import export_bytes, export_safetensors, export_torch, load_state, load_weights
from holdfast_checkpoint.manifest import BlobEntry, Manifest
from holdfast_checkpoint.remote import Repository

RUN = "0a1b2c3d"
LAYERS = ("embed", "block.0", "head")


def _tensors(layer: int, step: int) -> dict[str, Tensor]:
    torch.manual_seed(layer * 1000 + step)
    weight = torch.randn(5 + layer, 3)
    return {
        "model.weight": weight,
        "model.norm.bias": torch.randn(3).bfloat16(),
        "model.seen": torch.tensor(step),
        "model.mask": torch.tensor([True, False, True]),
        "optim.exp_avg.weight": weight * 2,
        "optim.step.weight": torch.tensor(float(step)),
    }


def _checkpoint(url: Path, step: int) -> str:
    """As agents write it; returns its folder."""
    repository, folder = Repository(str(url)), folder_of(step, RUN, 1)
    entries = []
    for layer, name in enumerate(LAYERS):
        source = url.parent / "blob"
        write_blob(source, _tensors(layer, step), {"layer": name, "scalars": json.dumps({"optim.lr.weight": 0.5})})
        digest = digest_of(source.read_bytes())
        path = repository.put_blob(folder, layer, source, digest)
        entries.append(BlobEntry(layer=layer, name=name, path=path, digest=digest))
    manifest = Manifest(
        step=step, generation=1, run=RUN, job="j", samples=step * 8, created=f"2026-01-01T00:00:{step:02d}+00:00",
        identity={"optimizer": "Adam"}, spec={}, blobs=tuple(entries),
    )  # fmt: skip
    repository.commit(folder, manifest)
    return folder


def _expected(step: int, kind: str = "model.") -> dict[str, Tensor]:
    return {
        f"{name}.{tensor.removeprefix(kind)}": value
        for layer, name in enumerate(LAYERS)
        for tensor, value in _tensors(layer, step).items()
        if tensor.startswith(kind)
    }


def _assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.fixture
def url(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def test_weights_are_those_of_the_newest_checkpoint(url: Path) -> None:
    _checkpoint(url, 2)
    _checkpoint(url, 10)
    _assert_same(load_weights(url), _expected(10))


def test_weights_are_those_of_the_step_that_is_asked_for(url: Path) -> None:
    _checkpoint(url, 2)
    _checkpoint(url, 10)
    _assert_same(load_weights(str(url), step=2), _expected(2))


def test_a_step_that_is_not_there_is_said(url: Path) -> None:
    _checkpoint(url, 2)
    with pytest.raises(NoCheckpointError, match="no checkpoint of step 3"):
        load_weights(url, step=3)


def test_state_holds_the_optimizer_by_weight_and_key(url: Path) -> None:
    _checkpoint(url, 4)
    state = load_state(url)
    assert (state.step, state.samples) == (4, 32)
    _assert_same(state.weights, _expected(4))
    assert state.optimizer.keys() == {f"{name}.weight" for name in LAYERS}
    for layer, name in enumerate(LAYERS):
        found, written = state.optimizer[f"{name}.weight"], _tensors(layer, 4)
        assert torch.equal(found["exp_avg"], written["optim.exp_avg.weight"])
        assert torch.equal(found["step"], written["optim.step.weight"])
        assert found["lr"] == 0.5


@pytest.mark.parametrize("with_optimizer", [False, True])
def test_one_safetensors_file_holds_what_was_asked_for(url: Path, tmp_path: Path, with_optimizer: bool) -> None:
    folder = _checkpoint(url, 4)
    heard: list[int] = []
    target, repository = tmp_path / "all.safetensors", Repository(str(url))
    export_safetensors(repository, folder, target, with_optimizer=with_optimizer, on_bytes=heard.append)

    expected = _expected(4)
    if with_optimizer:
        expected |= {
            f"optim.{name}.{key}": value
            for layer, name in enumerate(LAYERS)
            for key, value in {
                "weight.exp_avg": _tensors(layer, 4)["optim.exp_avg.weight"],
                "weight.step": _tensors(layer, 4)["optim.step.weight"],
            }.items()
        }
    _assert_same(load_file(target), expected)
    assert sum(heard) == export_bytes(repository, folder, with_optimizer=with_optimizer)
    with safe_open(target, framework="pt") as file:
        assert file.metadata()["step"] == "4"


@pytest.mark.parametrize("with_optimizer", [False, True])
def test_a_torch_state_dict_loads_with_weights_only(url: Path, tmp_path: Path, with_optimizer: bool) -> None:
    folder = _checkpoint(url, 4)
    export_torch(Repository(str(url)), folder, tmp_path / "all.pt", with_optimizer=with_optimizer)
    found: Any = torch.load(tmp_path / "all.pt", weights_only=True)  # noqa: TID251 (this is what it is exported for)
    assert len(found) == len(LAYERS) * (6 if with_optimizer else 4)
    _assert_same({name: found[name] for name in _expected(4)}, _expected(4))


def test_the_three_lines_of_the_documentation_read_a_blob_with_safetensors_alone(url: Path) -> None:
    folder = _checkpoint(url, 4)
    weights: dict[str, Tensor] = {}
    for path in sorted((url / folder).glob("*.safetensors")):
        weights |= {f"{path.stem}.{name}": tensor for name, tensor in load_file(path).items()}
    assert torch.equal(weights["00002.model.weight"], _expected(4)["head.weight"])


def test_a_flipped_byte_is_found_wherever_it_is_read(url: Path, tmp_path: Path) -> None:
    folder = _checkpoint(url, 4)
    path = url / folder / "00001.safetensors"
    sound = path.read_bytes()
    for place in range(0, len(sound), 97):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 4]) + sound[place + 1 :])
        with pytest.raises(CorruptError, match=r"00001\.safetensors"):
            load_weights(url)


@pytest.mark.parametrize("export", [export_safetensors, export_torch])
def test_an_export_that_fails_leaves_no_file(url: Path, tmp_path: Path, export: Any) -> None:
    folder = _checkpoint(url, 4)
    (url / folder / "00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"00002\.safetensors"):
        export(Repository(str(url)), folder, tmp_path / "x")
    assert not list(tmp_path.glob("*x*"))


_EXPORT_AND_TELL_PEAK = """
import resource, sys
from holdfast_checkpoint.loading import export_safetensors
from holdfast_checkpoint.remote import Repository
repository = Repository(sys.argv[1])
folder, _ = repository.newest()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
export_safetensors(repository, folder, sys.argv[2], with_optimizer=True)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10)
"""


@pytest.mark.slow
def test_an_export_holds_a_part_of_the_checkpoint_in_memory(url: Path, tmp_path: Path) -> None:
    repository, folder = Repository(str(url)), folder_of(1, RUN, 1)
    source, entries, tensor_bytes = tmp_path / "blob", [], 12 << 20
    for layer in range(16):
        write_blob(source, {"model.weight": torch.full((tensor_bytes // 4,), float(layer))}, {"layer": str(layer)})
        digest = digest_of(source.read_bytes())
        path = repository.put_blob(folder, layer, source, digest)
        entries.append(BlobEntry(layer=layer, name=str(layer), path=path, digest=digest))
    manifest = Manifest(
        step=1, generation=1, run=RUN, job="j", samples=0, created="", identity={}, spec={}, blobs=tuple(entries)
    )
    repository.commit(folder, manifest)
    told = subprocess.run(
        [sys.executable, "-c", _EXPORT_AND_TELL_PEAK, str(url), str(tmp_path / "x.safetensors")],
        env={"PYTHONPATH": str(Path(sys.modules["holdfast_checkpoint"].__path__[0]).parent), "OMP_NUM_THREADS": "1"},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert int(told.stdout) < manifest.size * 0.75
    assert math.isclose((tmp_path / "x.safetensors").stat().st_size, 16 * tensor_bytes, rel_tol=0.01)

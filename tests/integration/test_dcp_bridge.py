"""The bridge to torch.distributed.checkpoint, with a process for each rank: what is saved comes back, or an error.

The ranks of one process group go through all acts one after the other; the tests look at what they told.
"""

import json
import os
import signal
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from harness.dcp_ranks import Model, failures, mesh_of, run_ranks, sha256
from harness.storage.s3_server import Kind, running_s3
from holdfast_checkpoint.dcp import HoldfastReader, HoldfastWriter
from holdfast_checkpoint.dcp.host_memory import HostMemory
from holdfast_checkpoint.loading import load_weights
from holdfast_checkpoint.manifest import to_json
from holdfast_checkpoint.remote import Repository

pytestmark = pytest.mark.slow
SAVED_ON = 4


def _trained(ranks: int, seed: int) -> dict[str, Any]:
    """State of an FSDP2 model and its AdamW after a step; collective on the first `ranks` ranks."""
    model = Model(seed)
    fully_shard(model, mesh=mesh_of(ranks))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.8, 0.9))
    model(torch.ones(3, 37) * seed).sum().backward()
    optimizer.step()
    weights, optim = get_state_dict(model, optimizer)
    return {"model": weights, "optim": optim, "step": seed, "note": ["kept", (1, 2.5), None]}


def _plain(seed: int) -> dict[str, Any]:
    model = Model(seed)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(3, 37)).sum().backward()
    optimizer.step()
    weights, optim = get_state_dict(model, optimizer)
    return {"model": weights, "optim": optim, "step": 0, "note": None}


def _grids(mesh: DeviceMesh, placements: list[Any], seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    whole = {"wide": torch.randn(23, 41), "half": torch.randn(19, 5, 3).bfloat16(), "flags": torch.rand(40, 9) > 0.5}
    return {name: distribute_tensor(value, mesh, placements) for name, value in whole.items()}


def _acts(rank: int, folder: Path) -> dict[str, Any]:
    url = str(folder / "checkpoints")
    told: dict[str, Any] = {}
    three, one = dist.new_group([0, 1, 2]), dist.new_group([0])
    for shape in ((4,), (3,), (4, 2, 2)):
        mesh_of(*shape)
    state = _trained(SAVED_ON, 7)
    dcp.save(state, storage_writer=HoldfastWriter(url, step=1, blob_bytes=4000))
    told["saved"] = sha256(state)
    if rank < 3:
        other = _trained(3, 8)
        told["before"] = sha256(other)
        dcp.load(other, storage_reader=HoldfastReader(url), process_group=three)
        told["on_three"] = sha256(other)
        told["objects"] = [other["step"], other["note"], other["optim"]["param_groups"][0]["betas"]]
    if rank < 1:
        alone = _plain(8)
        reader = HoldfastReader(url)
        dcp.load(alone, storage_reader=reader, process_group=one)
        told["on_one"], told["step"] = sha256(alone), reader.step
    told |= _grid_acts(rank, folder, three)
    told |= _async_acts(folder)
    told |= _broken_acts(rank, folder, state)
    told |= _memory_acts(rank, folder, state)
    return told


def _grid_acts(rank: int, folder: Path, three: Any) -> dict[str, Any]:
    """Rows and columns on a 2x2 mesh, to columns alone on three ranks, and replicated on three."""
    url = str(folder / "grids")
    state = _grids(mesh_of(4, 2, 2), [Shard(0), Shard(1)], 1)
    dcp.save(state, storage_writer=HoldfastWriter(url, step=1))
    told = {"grid": sha256(state)}
    if rank < 3:
        ways: dict[str, list[Any]] = {"columns": [Shard(1)], "replicas": [Replicate()]}
        for name, placements in ways.items():
            other = _grids(mesh_of(3), placements, 2)
            dcp.load(other, storage_reader=HoldfastReader(url), process_group=three)
            told[name] = sha256(other)
    return told


def _async_acts(folder: Path) -> dict[str, Any]:
    url = str(folder / "async")
    state = _trained(SAVED_ON, 3)
    told = {"async_saved": sha256(state)}
    saving = dcp.async_save(state, storage_writer=HoldfastWriter(url, step=1))
    assert isinstance(saving, Future)
    for value in state["model"].values():  # training goes on
        (value.to_local() if isinstance(value, DTensor) else value).zero_()
    saving.result()
    dcp.load(state, storage_reader=HoldfastReader(url))
    return told | {"async_loaded": sha256(state)}


def _broken_acts(rank: int, folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    url = str(folder / "broken")
    told: dict[str, Any] = {}
    dcp.save(state, storage_writer=HoldfastWriter(url, step=1))

    def bad_save() -> None:
        dcp.save(state | {"hook": Path("a") if rank == 0 else Path("b")}, storage_writer=HoldfastWriter(url, step=2))

    def load() -> None:
        dcp.load(state, storage_reader=HoldfastReader(url))

    told["refused"] = failures(bad_save)
    told["newest"] = Repository(url).newest()[1].step
    blob = _blob_with(url, "model.first.weight")
    _once(rank, lambda: _flip(blob))
    told["flipped"] = failures(load)
    _once(rank, blob.unlink)
    told["missing"] = failures(load)
    _once(rank, lambda: _drop_chunk(url, "model.first.weight"))
    told["dropped"] = failures(load)
    return told


def _memory_acts(rank: int, folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    url, saved = str(folder / "memory"), sha256(state)
    dcp.save(state, storage_writer=HoldfastWriter(url, step=1, memory=True))
    dcp.save(state, storage_writer=HoldfastWriter(url, step=2, memory=True))
    name = Repository(url).newest()[0]
    told: dict[str, Any] = {"copies": [len(HostMemory(url).copies(one.folder)) for one in Repository(url).list()]}
    aside = Path(url) / name / "aside"
    blob = _blob_with(url, "model.first.weight")
    _once(rank, lambda: blob.rename(aside))

    def load() -> None:
        state["model"] = {name: value * 0 for name, value in state["model"].items()}
        dcp.load(state, storage_reader=HoldfastReader(url))

    told["from_memory"] = failures(load)
    copy = next(path for copies in HostMemory(url).copies(name) for path in copies.glob(blob.name))
    _once(rank, lambda: aside.rename(blob))
    _once(rank, lambda: _flip(copy))
    told["past_bad_memory"] = failures(load)
    told["after_memory"] = [sha256(state), saved]
    _once(rank, HostMemory(url).forget)
    return told


def _once(rank: int, act: Any) -> None:
    dist.barrier()
    if rank == 0:
        act()
    dist.barrier()


def _blob_with(url: str, tensor: str) -> Path:
    folder, manifest = Repository(url).newest()
    number = manifest.identity["tensors"][tensor]["chunks"][0]["blob"]
    return Path(url) / folder / next(entry.path for entry in manifest.blobs if entry.layer == number)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _drop_chunk(url: str, tensor: str) -> None:
    """A sound manifest that lacks one part, as a fault of a writer would leave it."""
    folder, manifest = Repository(url).newest()
    identity = json.loads(json.dumps(dict(manifest.identity)))
    del identity["tensors"][tensor]["chunks"][1]
    (Path(url) / folder / "manifest.json").write_bytes(to_json(replace(manifest, identity=identity)))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[Mapping[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    return run_ranks(_acts, SAVED_ON, folder)


def _same(told: list[Mapping[str, Any]], key: str) -> Any:
    """What all ranks that took part told alike."""
    values = [rank[key] for rank in told if key in rank]
    assert values, f"no rank told {key}"
    assert all(value == values[0] for value in values)
    return values[0]


def test_state_saved_on_four_ranks_comes_back_on_three_bit_for_bit(told: list[Mapping[str, Any]]) -> None:
    assert _same(told, "before") != _same(told, "saved")
    assert _same(told, "on_three") == _same(told, "saved")


def test_state_saved_on_four_ranks_comes_back_in_one_process_as_plain_tensors(told: list[Mapping[str, Any]]) -> None:
    assert _same(told, "on_one") == _same(told, "saved")
    assert _same(told, "step") == 1


def test_what_is_no_tensor_comes_back_with_its_types(told: list[Mapping[str, Any]]) -> None:
    # JSON between the ranks and this test has no tuples; test_dcp.py tells them apart.
    assert _same(told, "objects") == [7, ["kept", [1, 2.5], None], [0.8, 0.9]]


def test_shards_along_several_dims_come_back_in_other_shards(told: list[Mapping[str, Any]]) -> None:
    assert _same(told, "columns") == _same(told, "grid")
    assert _same(told, "replicas") == _same(told, "grid")


def test_an_async_save_holds_the_state_of_its_begin(told: list[Mapping[str, Any]]) -> None:
    assert _same(told, "async_loaded") == _same(told, "async_saved")


def test_an_object_that_is_no_json_is_refused_by_name_and_the_checkpoint_before_stays_newest(
    told: list[Mapping[str, Any]],
) -> None:
    (refused,) = _same(told, "refused")
    assert "ValueError: 'hook' is no JSON value; make it a tensor" in refused
    assert _same(told, "newest") == 1


def test_a_flipped_byte_is_found_on_all_ranks_with_blob_place_and_tensor(told: list[Mapping[str, Any]]) -> None:
    flipped = _same(told, "flipped")
    assert flipped
    assert all("CorruptError" in one and ".safetensors is corrupt between bytes 0 and" in one for one in flipped)
    assert any("'model.first.weight'" in one for one in flipped)


def test_a_missing_blob_is_named_with_what_it_held(told: list[Mapping[str, Any]]) -> None:
    missing = _same(told, "missing")
    assert missing
    assert all(".safetensors is missing, and the manifest names it" in one for one in missing)
    assert any("'model.first.weight'" in one for one in missing)


def test_a_missing_chunk_is_an_error_that_names_the_tensor(told: list[Mapping[str, Any]]) -> None:
    dropped = _same(told, "dropped")
    assert len(dropped) == SAVED_ON
    assert all("MissingError: tensor 'model.first.weight' of shape [53, 37] is not whole" in one for one in dropped)


def test_a_rank_that_restarts_on_the_host_reads_the_last_save_from_its_memory(told: list[Mapping[str, Any]]) -> None:
    before, last = _same(told, "copies")
    assert (before, last) == (0, SAVED_ON)
    assert _same(told, "from_memory") == []


def test_a_corrupt_copy_in_memory_is_passed_over(told: list[Mapping[str, Any]]) -> None:
    assert _same(told, "past_bad_memory") == []
    loaded, saved = _same(told, "after_memory")
    assert loaded == saved


def _killed_in_its_save(rank: int, folder: Path) -> dict[str, Any]:
    url = str(folder / "checkpoints")
    state = {"weight": distribute_tensor(torch.arange(64.0), mesh_of(2), [Shard(0)])}
    dcp.save(state, storage_writer=HoldfastWriter(url, step=1))
    saved = sha256(state)
    state["weight"].to_local().zero_()
    if rank == 1:
        put_blob = Repository.put_blob

        def put_blob_and_die(*args: Any) -> str:
            put_blob(*args)
            os.kill(os.getpid(), signal.SIGKILL)
            return ""

        Repository.put_blob = put_blob_and_die  # type: ignore[assignment, method-assign]
    with pytest.raises(RuntimeError):  # gloo's: the other rank is gone
        dcp.save(state, storage_writer=HoldfastWriter(url, step=2))
    return {"saved": saved, "folders": [one.is_committed for one in Repository(url).list()]}


def test_a_rank_killed_in_a_save_leaves_the_checkpoint_before_the_newest(tmp_path: Path) -> None:
    survivor, _ = run_ranks(_killed_in_its_save, 2, tmp_path, expected_exits=[0, -signal.SIGKILL])
    assert survivor["folders"] == [True, False]
    assert sha256(load_weights(tmp_path / "checkpoints")) == survivor["saved"]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_s3_holds_what_a_script_saves_and_names_what_is_corrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url: Any = "s3://bucket/run"
    with running_s3(tmp_path, Kind.MOTO, "bucket") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        state = {"large": torch.randn(3 << 20), "small": torch.randn(5, 7), "step": 4}
        dcp.save(state, storage_writer=HoldfastWriter(url, step=4, blob_bytes=8 << 20))
        loaded = {"large": torch.zeros(3 << 20), "small": torch.zeros(5, 7), "step": 0}
        dcp.load(loaded, storage_reader=HoldfastReader(url))
        assert sha256(loaded) == sha256(state)
        assert loaded["step"] == 4

        folder, manifest = Repository(url).newest()
        storage = fsspec.filesystem("s3", skip_instance_cache=True)
        (entry,) = [one for one in manifest.blobs if one.size < 1 << 20]
        path = f"bucket/run/{folder}/{entry.path}"
        storage.pipe_file(path, storage.cat_file(path)[:-1] + b"\0")
        (told,) = failures(lambda: dcp.load(loaded, storage_reader=HoldfastReader(url)))
        assert entry.path in told
        assert "'small'" in told

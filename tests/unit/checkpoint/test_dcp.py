"""The pieces of the torch.distributed.checkpoint bridge, in one process."""

import contextlib
import io
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner

from harness.storage.making import WIDTH, Making, make_checkpoint, tensors_of
from holdfast_checkpoint.dcp import HoldfastReader, HoldfastWriter
from holdfast_checkpoint.dcp.landing import Landing, landings, waves
from holdfast_checkpoint.dcp.objects import from_json, packed, to_json, unpacked
from holdfast_checkpoint.dcp.ranges import Wanted, read_ranges
from holdfast_checkpoint.dcp.saved import MissingError, SavedChunk, SavedTensor, check_covered
from holdfast_checkpoint.dcp.sources import LocalSource, local_root
from holdfast_checkpoint.digest import Digest
from holdfast_checkpoint.errors import CorruptError, NoCheckpointError
from holdfast_checkpoint.manifest import BlobEntry
from holdfast_checkpoint.remote import Repository

# torch says so whenever no process group is there.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
CHUNK = 64  # of the digests made here, so that little data has many


def save(state: dict[str, Any], url: Path, step: int, **options: Any) -> None:
    dcp.save(state, storage_writer=HoldfastWriter(url, step=step, **options))


# What is no tensor

_keys = st.text(max_size=3).filter(lambda key: key not in ("$tuple", "$float"))
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(_keys, inner),
    max_leaves=8,
)


@given(_values)
def test_a_value_comes_back_from_json_with_its_types(value: object) -> None:
    # repr tells types apart, and NaN equals NaN in it.
    assert repr(from_json(to_json(value, "x"))) == repr(value)


@given(_values)
@settings(max_examples=20)
def test_a_value_goes_through_the_planners_hands_unchanged(value: object) -> None:
    data = io.BytesIO()
    torch.save(value, data)  # noqa: TID251 (as torch's own planner does)
    again: object = torch.load(packed(unpacked(data, "x")), weights_only=True)  # noqa: TID251 (likewise)
    assert repr(again) == repr(value)


@pytest.mark.parametrize(
    ("value", "kind"), [(b"x", "bytes"), ({1: 2}, "the key 1"), ([{"a": {1, 2}}], "set"), (torch.float32, "dtype")]
)
def test_what_json_cannot_hold_is_refused_with_its_place(value: object, kind: str) -> None:
    with pytest.raises(ValueError, match=kind):
        to_json(value, "'optim.note'")


# Coverage

_ROWS = [SavedChunk(offsets=(row, 0), sizes=(2, 3), blob=0, start=0) for row in (0, 2, 4)]


@pytest.mark.parametrize(
    ("chunks", "says"),
    [
        (_ROWS[:2], "hold 12 of 18"),
        ([*_ROWS[:2], _ROWS[1]], "some of them twice"),
        ([*_ROWS, _ROWS[0]], "hold 24 of 18 items, some of them twice"),
        ([*_ROWS[:2], replace(_ROWS[2], offsets=(5, 0))], "outside of it"),
        ([], "hold 0 of 18"),
    ],
)
def test_a_tensor_that_is_not_whole_is_named(chunks: Sequence[SavedChunk], says: str) -> None:
    check_covered("w", SavedTensor(dtype="F32", shape=(6, 3), chunks=tuple(_ROWS)))
    with pytest.raises(MissingError, match=f"'w'.*{says}"):
        check_covered("w", SavedTensor(dtype="F32", shape=(6, 3), chunks=tuple(chunks)))


# Reading


@st.composite
def _boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Sizes of a chunk, and a box inside of it."""
    sizes = tuple(draw(st.lists(st.integers(1, 7), min_size=0, max_size=3)))
    offsets = tuple(draw(st.integers(0, size - 1)) for size in sizes)
    lengths = tuple(draw(st.integers(1, size - offset)) for size, offset in zip(sizes, offsets, strict=True))
    return sizes, offsets, lengths


@given(boxes=st.lists(_boxes(), min_size=1, max_size=5), transposed=st.booleans(), aside_max=st.integers(1, 300))
@settings(max_examples=60)
def test_any_box_of_any_chunk_lands_where_it_belongs(
    tmp_path_factory: pytest.TempPathFactory, boxes: Any, transposed: bool, aside_max: int
) -> None:
    folder = tmp_path_factory.mktemp("blob")
    saved, data = [], b"head"  # a blob in which nothing is aligned to chunks
    for sizes, _, _ in boxes:
        tensor = torch.arange(math.prod(sizes), dtype=torch.int32).view(sizes) + len(data)
        saved.append((tensor, SavedChunk(offsets=(0,) * len(sizes), sizes=sizes, blob=0, start=len(data))))
        data += tensor.numpy().tobytes()
    entry = _entry(folder, data)
    targets: list[Tensor] = []
    found: list[Landing] = []
    for (_, chunk), (_, offsets, lengths) in zip(saved, boxes, strict=True):
        target = torch.zeros(lengths[::-1], dtype=torch.int32).permute(tuple(reversed(range(len(lengths)))))
        targets.append(target if transposed else target.contiguous())
        found += landings("w", "I32", chunk, offsets, targets[-1], aside_bytes=aside_max)
    for wave in waves(found, aside_max):
        memories = [landing.memory() for landing in wave]
        wanted = [
            Wanted(entry=entry, start=landing.start, view=view, name="w")
            for landing, (view, _) in zip(wave, memories, strict=True)
        ]
        settled: list[int] = []
        read_ranges(wanted, [LocalSource(folder)], on_done=settled.append)
        assert sorted(settled) == list(range(len(wave)))
        for landing, (_, held) in zip(wave, memories, strict=True):
            landing.settle(held)
    for (tensor, _), (_, offsets, lengths), target in zip(saved, boxes, targets, strict=True):
        box = tensor
        for dim, (offset, length) in enumerate(zip(offsets, lengths, strict=True)):
            box = box.narrow(dim, offset, length)
        assert torch.equal(target, box)


def _entry(folder: Path, data: bytes) -> BlobEntry:
    (folder / "blob").write_bytes(data)
    chunks = tuple(xxhash.xxh3_128_hexdigest(data[at : at + CHUNK]) for at in range(0, len(data), CHUNK))
    return BlobEntry(layer=0, name="b", path="blob", digest=Digest(size=len(data), chunks=chunks, chunk_bytes=CHUNK))


def _wanted(entry: BlobEntry, start: int, stop: int) -> tuple[bytearray, Wanted]:
    memory = bytearray(stop - start)
    return memory, Wanted(entry=entry, start=start, view=memoryview(memory), name=f"t{start}")


def test_two_that_want_the_same_bytes_both_get_them(tmp_path: Path) -> None:
    data = os.urandom(5 * CHUNK + 7)
    entry = _entry(tmp_path, data)
    spans = [(0, len(data)), (10, 200), (10, 200), (150, 160), (64, 128)]
    wanted = [_wanted(entry, start, stop) for start, stop in spans]
    read_ranges([one for _, one in wanted], [LocalSource(tmp_path)])
    assert [bytes(memory) for memory, _ in wanted] == [data[start:stop] for start, stop in spans]


@given(
    size=st.integers(1, 9 * CHUNK),
    cuts=st.lists(st.tuples(st.integers(0, 9 * CHUNK), st.integers(0, 9 * CHUNK)), min_size=1, max_size=6),
    flipped=st.integers(0, 9 * CHUNK),
    most=st.integers(1, 5 * CHUNK),
)
@settings(max_examples=150)
def test_any_ranges_are_read_and_no_flipped_byte_gets_through(
    tmp_path_factory: pytest.TempPathFactory, size: int, cuts: Any, flipped: int, most: int
) -> None:
    folder, data = tmp_path_factory.mktemp("blob"), os.urandom(size)
    entry = _entry(folder, data)
    spans = [(min(a, b, size), min(max(a, b), size)) for a, b in cuts]
    wanted = [_wanted(entry, start, stop) for start, stop in spans]
    settled: list[int] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("holdfast_checkpoint.dcp.ranges._RUN_BYTES", most)
        read_ranges([one for _, one in wanted], [LocalSource(folder)], on_done=settled.append)
        assert [bytes(memory) for memory, _ in wanted] == [data[start:stop] for start, stop in spans]
        assert sorted(settled) == list(range(len(spans)))

        at = flipped % size
        (folder / "blob").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        chunk = at // CHUNK
        touched = any(chunk in range(start // CHUNK, -(-stop // CHUNK)) for start, stop in spans if start < stop)
        with pytest.raises(CorruptError) if touched else contextlib.nullcontext():
            read_ranges([one for _, one in wanted], [LocalSource(folder)])


def test_a_flipped_byte_matters_to_those_alone_who_read_its_chunk(tmp_path: Path) -> None:
    data = os.urandom(4 * CHUNK)
    entry = _entry(tmp_path, data)
    (tmp_path / "blob").write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    memory, sound = _wanted(entry, 130, 250)
    read_ranges([sound], [LocalSource(tmp_path)])
    assert memory == data[130:250]
    _, broken = _wanted(entry, 120, 140)
    with pytest.raises(CorruptError, match=r"between bytes 64 and 128.*'t120'"):
        read_ranges([sound, broken], [LocalSource(tmp_path)])


def test_a_copy_that_is_corrupt_short_or_missing_is_passed_over(tmp_path: Path) -> None:
    data = os.urandom(3 * CHUNK)
    for name, content in {"sound": data, "corrupt": b"x" + data[1:], "short": data[:-1]}.items():
        (tmp_path / name).mkdir()
        entry = _entry(tmp_path / name, data)
        (tmp_path / name / "blob").write_bytes(content)
    (tmp_path / "missing").mkdir()
    bad = [LocalSource(tmp_path / name, is_optional=True) for name in ("missing", "corrupt", "short")]
    memory, one = _wanted(entry, 0, len(data))
    read_ranges([one], [*bad, LocalSource(tmp_path / "sound")])
    assert memory == data


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("/a/b", "/a/b"),
        ("file:///a/b%20c", "/a/b%20c"),
        ("s3://a/b", None),
        ("memory://a", None),
        ("faulty::file:///a", None),
    ],
)
def test_only_a_folder_of_this_machine_is_read_as_one(url: str, root: str | None) -> None:
    assert local_root(url) == (Path(root) if root else None)


# Saving and loading


def test_what_another_storage_holds_loads_as_well() -> None:
    url: Any = "memory://test-dcp/elsewhere"
    state = {"w": torch.randn(40, 3), "step": 1}
    save(state, url, 1)
    other = {"w": torch.zeros(40, 3), "step": 0}
    dcp.load(other, storage_reader=HoldfastReader(url))
    assert torch.equal(other["w"], state["w"])  # type: ignore[arg-type]
    assert other["step"] == 1


def test_a_blob_is_read_by_safetensors_alone_under_the_states_own_keys(tmp_path: Path) -> None:
    weight = torch.randn(8, 2)
    save({"model": {"w": weight, "half": weight.bfloat16(), "column": weight.t()}}, tmp_path, 3)
    (blob,) = tmp_path.glob("*/*.safetensors")
    with safe_open(blob, framework="pt") as file:
        assert torch.equal(file.get_tensor("model.w"), weight)
        assert torch.equal(file.get_tensor("model.column"), weight.t())
        assert file.get_tensor("model.half").dtype == torch.bfloat16


def test_nothing_on_disk_is_pickled(tmp_path: Path) -> None:
    save({"w": torch.ones(3), "betas": (0.9, 0.99)}, tmp_path, 1)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".safetensors", ".json"}
    assert not any(b"\x80\x02" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_dtype_that_safetensors_lacks_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(dcp.CheckpointException, match=r"tensor 'w' has dtype torch\.complex128"):
        save({"w": torch.zeros(2, dtype=torch.complex128)}, tmp_path, 1)
    with pytest.raises(NoCheckpointError):
        Repository(str(tmp_path)).newest()


def test_no_two_saves_share_a_folder_even_of_one_step(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        save({"w": torch.full((3,), value)}, tmp_path, 1)
    assert len(Repository(str(tmp_path)).list()) == 2
    state = {"w": torch.zeros(3)}
    dcp.load(state, storage_reader=HoldfastReader(tmp_path))
    assert state["w"].tolist() == [2.0] * 3


def test_a_key_that_the_checkpoint_lacks_is_an_error(tmp_path: Path) -> None:
    save({"w": torch.ones(3)}, tmp_path, 1)
    with pytest.raises(dcp.CheckpointException, match="Missing key in checkpoint state_dict: v"):
        dcp.load({"v": torch.ones(3)}, storage_reader=HoldfastReader(tmp_path))


def test_where_nothing_is_stored_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(dcp.CheckpointException, match="NoCheckpointError: there is no checkpoint"):
        dcp.load({"v": torch.ones(3)}, storage_reader=HoldfastReader(tmp_path))


def test_cached_plans_are_refused_since_they_name_an_earlier_folder(tmp_path: Path) -> None:
    for step in (1, 2):
        planner = DefaultSavePlanner(enable_plan_caching=True)
        writer = HoldfastWriter(tmp_path, step=step)
        if step == 1:
            dcp.save({"w": torch.ones(3)}, storage_writer=writer, planner=planner)
            continue
        with pytest.raises(dcp.CheckpointException, match="enable_plan_caching"):
            dcp.save({"w": torch.ones(3)}, storage_writer=writer, planner=planner)


def test_a_plan_that_torch_replaces_by_a_cached_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="enable_plan_caching"):
        HoldfastWriter(tmp_path, step=1).prepare_global_plan([dcp.SavePlan([], usable=False)])


def test_saving_without_collectives_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use_collectives=False"):
        dcp.save({"w": torch.ones(3)}, storage_writer=HoldfastWriter(tmp_path, step=1), use_collectives=False)


def test_a_jobs_checkpoint_loads_through_the_bridge(tmp_path: Path) -> None:
    making = Making()
    make_checkpoint(str(tmp_path), 3, making)
    state = {"middle.weight": torch.zeros(WIDTH, WIDTH), "optim.middle.bias.exp_avg": torch.zeros(WIDTH)}
    dcp.load(state, storage_reader=HoldfastReader(tmp_path))
    written = tensors_of(making, "middle", 3)
    assert torch.equal(state["middle.weight"], torch.from_numpy(written["model.weight"]))
    assert torch.equal(state["optim.middle.bias.exp_avg"], torch.from_numpy(written["optim.exp_avg.bias"]))


def test_a_newer_checkpoint_that_appears_during_the_load_does_not_mix_with_it(tmp_path: Path) -> None:
    """Rank 0 saw step 1, this one step 2 already; both load step 1."""
    for step in (1, 2):
        save({"w": torch.full((4,), float(step))}, tmp_path, step)
    state = {"w": torch.zeros(4)}
    planner, reader = DefaultLoadPlanner(), HoldfastReader(tmp_path)
    planner.set_up_planner(state, reader.read_metadata())
    plan = planner.create_local_plan()
    (older,) = [one.folder for one in Repository(str(tmp_path)).list() if one.step == 1]
    reader.read_data(replace(plan, storage_data=older), planner)
    assert state["w"].tolist() == [1.0] * 4
    assert reader.step == 1

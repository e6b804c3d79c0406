"""Reading a checkpoint from a folder that fails: once, for a while or for ever; and what a load leaves open."""

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner

from harness.storage.making import blob_of, flip_byte, make_checkpoint
from holdfast_checkpoint.dcp import HoldfastReader, HoldfastWriter
from holdfast_checkpoint.dcp.ranges import Wanted, read_ranges
from holdfast_checkpoint.dcp.sources import LocalSource
from holdfast_checkpoint.digest import digest_of
from holdfast_checkpoint.errors import CorruptError, StorageBusyError, StorageError
from holdfast_checkpoint.loading import export_safetensors, load_weights
from holdfast_checkpoint.manifest import BlobEntry
from holdfast_checkpoint.remote import Repository
from holdfast_checkpoint.storage_retry import Patience

# torch says so whenever no process group is there.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
READS = 4  # in all, of what is corrupt
DATA = bytes(range(250))
Read = Callable[[int, Sequence[memoryview], int], int]


class Disk:
    """`os.preadv`, of which the first `bad` reads of blobs are as `spoil` makes them."""

    def __init__(self, bad: int, spoil: Callable[[Read, int, Sequence[memoryview], int], int]) -> None:
        self.bad, self.reads, self._spoil, self._preadv = bad, 0, spoil, os.preadv

    def __call__(self, fd: int, views: Sequence[memoryview], at: int) -> int:
        if Path(f"/proc/self/fd/{fd}").readlink().name == "manifest.json":
            return self._preadv(fd, views, at)
        self.reads += 1
        if self.reads > self.bad:
            return self._preadv(fd, views, at)
        return self._spoil(self._preadv, fd, views, at)


def flip(preadv: Read, fd: int, views: Sequence[memoryview], at: int) -> int:
    count = preadv(fd, views, at)
    views[0][0] ^= 1
    return count


def raising(number: int) -> Callable[..., int]:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


def disk(monkeypatch: pytest.MonkeyPatch, bad: int, spoil: Callable[..., int]) -> Disk:
    disk = Disk(bad, spoil)
    monkeypatch.setattr(os, "preadv", disk)
    return disk


@pytest.fixture
def blob(tmp_path: Path) -> BlobEntry:
    (tmp_path / "blob").write_bytes(DATA)
    return BlobEntry(layer=0, name="b", path="blob", digest=digest_of(DATA))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast_checkpoint.dcp.sources.Patience", partial(Patience, give_up_s=0.05, pause_s=0.001))


def read(entry: BlobEntry, *sources: LocalSource, start: int = 0) -> bytes:
    memory = bytearray(entry.size - start)
    read_ranges([Wanted(entry=entry, start=start, view=memoryview(memory), name="w")], sources, threads=1)
    return bytes(memory)


# Corrupt on its way


@pytest.mark.parametrize("start", [0, 100])
def test_what_is_corrupt_for_a_few_reads_only_is_no_error(
    blob: BlobEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    reads = disk(monkeypatch, READS - 1, flip)
    assert read(blob, LocalSource(tmp_path), start=start) == DATA[start:]
    assert reads.reads == READS


@pytest.mark.parametrize("start", [0, 100])
def test_what_stays_corrupt_is_an_error_that_names_it(
    blob: BlobEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    reads = disk(monkeypatch, 2 * READS, flip)
    with pytest.raises(CorruptError, match=r"/blob is corrupt between bytes 0 and 250.*\(it holds 'w'\)"):
        read(blob, LocalSource(tmp_path), start=start)
    assert reads.reads == READS


def test_another_source_is_asked_before_any_is_asked_again(
    blob: BlobEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = disk(monkeypatch, 1, flip)
    assert read(blob, LocalSource(tmp_path, is_optional=True), LocalSource(tmp_path)) == DATA
    assert reads.reads == 2


# Errors of the operating system


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENXIO])
def test_a_copy_whose_read_fails_is_passed_over(
    blob: BlobEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    disk(monkeypatch, 1, raising(number))
    assert read(blob, LocalSource(tmp_path, is_optional=True), LocalSource(tmp_path)) == DATA


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_folder_that_fails_for_now_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    make_checkpoint(str(tmp_path), 1)
    expected = load_weights(tmp_path)
    reads = disk(monkeypatch, 1, raising(number))
    loaded = load_weights(tmp_path)
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())
    assert reads.reads > 1


def test_a_handle_that_went_stale_is_not_read_through_again(blob: BlobEntry, tmp_path: Path, monkeypatch: Any) -> None:
    stale: list[int] = []

    def fail(preadv: Read, fd: int, views: Sequence[memoryview], at: int) -> int:
        if fd in (stale or [fd]):
            stale.append(fd)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return preadv(fd, views, at)

    disk(monkeypatch, 100, fail)
    source = LocalSource(tmp_path, patience=Patience(give_up_s=5.0, pause_s=0.001))
    assert [read(blob, source) for _ in range(3)] == [DATA] * 3
    source.close()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EIO, StorageBusyError), (errno.ESTALE, StorageBusyError), (errno.ENXIO, StorageError)]
)
def test_a_folder_that_fails_for_ever_is_a_storage_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[StorageError]
) -> None:
    url = tmp_path / "run"
    folder = make_checkpoint(str(url), 1)
    disk(monkeypatch, 1 << 30, raising(number))
    says = rf"cannot read {url}/{folder}/[^ ]*\.safetensors: .*{os.strerror(number)}"
    with pytest.raises(kind, match=says):
        load_weights(url)
    with pytest.raises(kind, match=says):
        export_safetensors(Repository(str(url)), folder, tmp_path / "out")
    with pytest.raises(dcp.CheckpointException, match=says):
        dcp.load({"middle.weight": torch.zeros(4, 4)}, storage_reader=HoldfastReader(url))


def test_a_file_that_may_not_be_opened_is_a_storage_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint(str(tmp_path), 1)
    opened = os.open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith(".safetensors"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match=r"cannot read .*\.safetensors: no permission"):
        load_weights(tmp_path)


# What stays open


def still_open(folder: Path) -> list[str]:
    """Files below it that this process holds."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except FileNotFoundError:  # that of the listing itself
            continue
    return [path for path in found if path.startswith(str(folder))]


def test_a_load_of_a_checkpoint_with_a_corrupt_layer_leaves_nothing_open(tmp_path: Path) -> None:
    folder = make_checkpoint(str(tmp_path), 1)
    flip_byte(blob_of(str(tmp_path), folder, 1), -1)
    with pytest.raises(CorruptError):
        load_weights(tmp_path)
    assert still_open(tmp_path) == []
    with pytest.raises(dcp.CheckpointException, match="CorruptError"):
        dcp.load({"middle.weight": torch.zeros(4, 4)}, storage_reader=HoldfastReader(tmp_path))
    assert still_open(tmp_path) == []


def test_a_load_of_a_key_that_is_not_there_leaves_nothing_open(tmp_path: Path) -> None:
    make_checkpoint(str(tmp_path), 1)
    with pytest.raises(dcp.CheckpointException, match="Missing key"):
        dcp.load({"nothing": torch.zeros(1)}, storage_reader=HoldfastReader(tmp_path))
    assert still_open(tmp_path) == []


def load_as_planned(url: Path, folder: str, state: dict[str, Any]) -> HoldfastReader:
    """A load on a rank that sees the newest checkpoint, while the coordinator chose the one in `folder`."""
    planner, reader = DefaultLoadPlanner(), HoldfastReader(url)
    planner.set_up_planner(state, reader.read_metadata())
    reader.read_data(replace(planner.create_local_plan(), storage_data=folder), planner)
    return reader


def test_a_load_of_another_checkpoint_than_the_newest_leaves_neither_open(tmp_path: Path) -> None:
    older, _ = (make_checkpoint(str(tmp_path), step) for step in (1, 2))
    state = {"middle.weight": torch.zeros(4, 4)}
    assert load_as_planned(tmp_path, older, state).step == 1
    assert torch.equal(state["middle.weight"], load_weights(tmp_path, 1)["middle.weight"])
    assert still_open(tmp_path) == []


def test_a_load_that_finds_another_checkpoint_to_be_of_other_shapes_leaves_neither_open(tmp_path: Path) -> None:
    older = make_checkpoint(str(tmp_path), 1)
    dcp.save({"w": torch.ones(3)}, storage_writer=HoldfastWriter(tmp_path, step=2))
    with pytest.raises(StorageBusyError, match="ranks saw different newest checkpoints"):
        load_as_planned(tmp_path, older, {"w": torch.zeros(3)})
    assert still_open(tmp_path) == []

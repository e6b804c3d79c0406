"""Copies of a save in this host's shared memory: none is torn, and none stays that is of no use."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from holdfast_checkpoint.dcp import HoldfastReader, HoldfastWriter
from holdfast_checkpoint.dcp.host_memory import HostMemory
from holdfast_checkpoint.errors import StorageDeniedError, StorageError
from holdfast_checkpoint.remote import Repository

# torch says so whenever no process group is there.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
STATE = {f"w{number}": torch.full((8,), float(number)) for number in range(4)}


@pytest.fixture
def shm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the place of /dev/shm."""
    root = tmp_path / "shm"
    root.mkdir()
    for module in ("writer", "opened"):
        monkeypatch.setattr(f"holdfast_checkpoint.dcp.{module}.HostMemory", lambda url: HostMemory(url, root=root))
    return root


def save(url: Path, step: int) -> str:
    """With a blob for each tensor; returns the folder."""
    dcp.save(STATE, storage_writer=HoldfastWriter(url, step=step, memory=True, blob_bytes=1))
    return Repository(str(url)).newest(step)[0]


def fail_after(blobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Storing a blob, once so many were stored; until the end of the `monkeypatch`."""
    put_blob: Callable[..., str] = Repository.put_blob
    stored: list[str] = []

    def fail(*args: Any) -> str:
        if len(stored) == blobs:
            raise StorageError("no")
        stored.append(put_blob(*args))
        return stored[-1]

    monkeypatch.setattr(Repository, "put_blob", fail)


def files(shm: Path) -> set[Path]:
    return {path for path in shm.rglob("*") if path.is_file()}


@pytest.mark.parametrize("stored", range(4))
def test_a_save_that_fails_leaves_nothing_and_the_copies_of_the_one_before(
    tmp_path: Path, shm: Path, stored: int
) -> None:
    url = tmp_path / "run"
    folder = save(url, 1)
    before = files(shm)
    assert len(before) == 4
    for step in (2, 3):
        with pytest.MonkeyPatch.context() as patched:
            fail_after(stored, patched)
            with pytest.raises(dcp.CheckpointException, match="StorageError: no"):
                save(url, step)
        assert files(shm) == before
    assert len(HostMemory(str(url), root=shm).copies(folder)) == 1


def test_a_save_takes_the_place_of_the_copies_of_the_one_before(tmp_path: Path, shm: Path) -> None:
    url = tmp_path / "run"
    first, second = save(url, 1), save(url, 2)
    assert len(files(shm)) == 4
    memory = HostMemory(str(url), root=shm)
    assert (len(memory.copies(first)), len(memory.copies(second))) == (0, 1)
    for blob in (url / second).glob("*.safetensors"):
        blob.unlink()
    loaded = {name: torch.zeros(8) for name in STATE}
    dcp.load(loaded, storage_reader=HoldfastReader(url))
    assert all(torch.equal(loaded[name], value) for name, value in STATE.items())


def test_what_a_process_killed_in_its_save_left_goes_when_the_next_save_begins(
    tmp_path: Path, shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, image = tmp_path / "run", tmp_path / "image"
    put_blob: Callable[..., str] = Repository.put_blob
    whole = save(url, 1)
    found: list[set[str]] = []

    def picture(*args: Any) -> str:
        shutil.copytree(shm, image, dirs_exist_ok=True)
        return put_blob(*args)

    def look(*args: Any) -> str:
        found.append({path.name for path in shm.glob("*/*/rank-0/*")})
        return put_blob(*args)

    monkeypatch.setattr(Repository, "put_blob", picture)
    save(url, 2)
    # As if it had been killed while it stored its last blob.
    shutil.rmtree(shm)
    image.rename(shm)
    killed = {path.name for path in shm.glob("*/*/rank-0/*")} - {whole}
    assert len(killed) == 1
    monkeypatch.setattr(Repository, "put_blob", look)
    save(url, 3)
    assert all(whole in names and not killed & names for names in found)
    assert len(files(shm)) == len(found) == 4


def test_of_several_whole_copies_the_newest_stays_until_the_save_is_over(tmp_path: Path) -> None:
    memory = HostMemory("run", root=tmp_path)
    with memory.saving(0, 1, "b") as create:
        os.close(create("b", 3))
    (older,) = memory.copies("b")
    os.utime(older, (1, 1))
    older.with_name("a").mkdir()
    with memory.saving(0, 1, "c"):
        assert (len(memory.copies("a")), len(memory.copies("b"))) == (1, 0)


def test_copies_of_ranks_that_no_longer_exist_go_once_a_save_is_done(
    tmp_path: Path, shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = tmp_path / "run"
    folder = save(url, 1)
    (own,) = shm.glob("*/*/rank-0")
    for rank in (1, 10):
        shutil.copytree(own, own.with_name(f"rank-{rank}"))
    memory = HostMemory(str(url), root=shm)
    with monkeypatch.context() as patched:
        fail_after(1, patched)
        with pytest.raises(dcp.CheckpointException):
            save(url, 2)
    assert len(memory.copies(folder)) == 3
    save(url, 3)
    assert [path.name for path in own.parent.iterdir()] == ["rank-0"]


def test_copies_of_the_other_ranks_stay(tmp_path: Path) -> None:
    memory = HostMemory("run", root=tmp_path)
    for rank in range(11):
        with memory.saving(rank, 11, "f") as create:
            os.close(create("b", 3))
    assert len(memory.copies("f")) == 11


def test_a_rank_that_has_nothing_to_save_keeps_nothing(tmp_path: Path, shm: Path) -> None:
    url = tmp_path / "run"
    save(url, 1)
    dcp.save({"step": 2}, storage_writer=HoldfastWriter(url, step=2, memory=True))
    assert not files(shm)


def test_a_folder_that_others_can_enter_is_neither_read_nor_written(tmp_path: Path) -> None:
    memory = HostMemory("u", root=tmp_path)
    with memory.saving(0, 1, "f") as create:
        os.close(create("b", 3))
    assert len(memory.copies("f")) == 1
    (base,) = tmp_path.iterdir()
    base.chmod(0o755)
    assert memory.copies("f") == ()
    with pytest.raises(StorageDeniedError, match="remove it"), memory.saving(0, 1, "f") as create:
        create("b", 3)
    memory.forget()
    assert len(files(tmp_path)) == 1


def test_a_url_means_the_same_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with HostMemory("run", root=tmp_path).saving(0, 1, "f") as create:
        os.close(create("b", 3))
    HostMemory(f"{tmp_path}/run/", root=tmp_path).forget()
    assert not files(tmp_path)


def test_where_memory_has_no_room_the_save_goes_on_without_it(
    tmp_path: Path, shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    save(tmp_path / "run", 1)
    assert Repository(str(tmp_path / "run")).newest()[1].step == 1
    assert not files(shm)

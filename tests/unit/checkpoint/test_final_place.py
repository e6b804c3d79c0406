"""What a job leaves for good comes back as it was written, or not at all."""

import threading
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from harness.storage.faulty import Fault, FaultyFileSystem, State
from holdfast_checkpoint.errors import CorruptError, NoCheckpointError, StorageBusyError, StorageError
from holdfast_checkpoint.final import FinalPlace, layer_path
from holdfast_checkpoint.remote import Repository


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    path = tmp_path / "a-layer"
    path.write_bytes(bytes(range(256)) * 4096)
    return path


def test_each_submission_has_a_mark_of_its_own(tmp_path: Path) -> None:
    place = FinalPlace(f"file://{tmp_path}/out")
    assert place.submissions() == ()
    place.mark("one", b"1")
    place.mark("two", b"2")
    assert place.submissions() == ("one", "two")
    place.unmark("one")
    assert (place.marked("one"), place.marked("two")) == (None, b"2")


def test_a_layer_comes_back_as_it_was_written(tmp_path: Path, layer: Path) -> None:
    place = FinalPlace(str(tmp_path / "out"))
    place.put_layer(3, layer)
    place.fetch_layer(3, tmp_path / "back" / "3")
    assert (tmp_path / "back" / "3").read_bytes() == layer.read_bytes()
    with pytest.raises(NoCheckpointError, match="not all final weights are written"):
        place.fetch_layer(4, tmp_path / "4")


def test_a_layer_that_was_changed_since_is_named(tmp_path: Path, layer: Path) -> None:
    place = FinalPlace(str(tmp_path / "out"))
    place.put_layer(0, layer)
    stored = tmp_path / "out" / layer_path(0)
    data = bytearray(stored.read_bytes())
    data[5] ^= 1
    stored.write_bytes(data)
    with pytest.raises(CorruptError, match=r"layer 0 .*is corrupt"):
        place.fetch_layer(0, tmp_path / "0")


def test_a_write_that_was_given_up_ends(tmp_path: Path, layer: Path) -> None:
    given_up = threading.Event()
    given_up.set()
    with pytest.raises(StorageError, match="given up"):
        FinalPlace(str(tmp_path / "out")).put_layer(0, layer, given_up)


def test_checkpoints_beside_it_do_not_see_it(tmp_path: Path, layer: Path) -> None:
    place = FinalPlace(str(tmp_path / "final"))
    place.mark("one", b"1")
    place.put_layer(0, layer)
    assert Repository(str(tmp_path)).list() == ()


@pytest.mark.parametrize("seed", range(4))
def test_faults_of_a_storage_change_no_bit(
    tmp_path: Path, layer: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, kinds = State(), ",".join(sorted(set(Fault) - {Fault.SLOW}))

    def opened(url: str, **options: object) -> tuple[FaultyFileSystem, str]:
        filesystem = FaultyFileSystem(seed=seed, rate=0.2, kinds=kinds, state=state, skip_instance_cache=True)
        return filesystem, str(tmp_path / "out")

    monkeypatch.setattr(fsspec, "url_to_fs", opened)
    place = FinalPlace("faulty://out", pause_s=0.001, give_up_s=20.0)
    for number in range(4):
        until_it_works(lambda number=number: place.put_layer(number, layer))  # type: ignore[misc]
    for number in range(4):
        until_it_works(lambda number=number: place.fetch_layer(number, tmp_path / "back"))  # type: ignore[misc]
        assert (tmp_path / "back").read_bytes() == layer.read_bytes()
    assert sum(state.injected.values()) > 0


def until_it_works(call: Callable[[], None]) -> None:
    """An error is right, if it is one that says so: what is wrong is to hand out something else."""
    for _ in range(50):
        try:
            return call()
        except (CorruptError, StorageBusyError):
            continue
    raise AssertionError("it never works")

"""A copy that fails, whatever for, comes to nothing: it is told as an error of ours, and the next one is made."""

import contextlib
import gc
import logging
import threading
import weakref
from collections.abc import Iterator

import pytest
import torch

from harness.waiting import wait_until
from holdfast_checkpoint import copyist
from holdfast_checkpoint.errors import StorageError
from holdfast_checkpoint.layer_blob import LayerState
from holdfast_checkpoint.snapshot import Snapshotter, Taken


@pytest.fixture
def snapshotter() -> Iterator[Snapshotter]:
    made = Snapshotter()
    yield made
    made.close()


def state(value: float) -> LayerState:
    return LayerState(name="block", tensors={"weight": torch.full((40, 30), value)}, scalars={})


def take(snapshotter: Snapshotter, step: int, held: LayerState) -> Taken:
    snapshotter.begin(step, 1, {0: held}, None)
    taken = snapshotter.wait(lambda: None)
    assert taken is not None
    return taken


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't start new thread"), KeyError("weight")],
    ids=repr,
)
def test_a_copy_that_fails_in_any_way_is_told_as_such_and_logged_with_its_place(
    snapshotter: Snapshotter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(copyist, "copy_from_host", fail)
        snapshotter.begin(1, 1, {0: state(1.0)}, None)
        with caplog.at_level(logging.ERROR), pytest.raises(StorageError, match=r"^the copy failed: ") as caught:
            snapshotter.wait(lambda: None)
    assert caught.value.__cause__ is error
    (record,) = [record for record in caplog.records if record.message == "snapshot.copy_failed"]
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert take(snapshotter, 2, state(2.0)).step == 2


@pytest.mark.parametrize("error", [OSError("no"), MemoryError("no")], ids=repr)
def test_what_the_system_refuses_stays_what_it_is(
    snapshotter: Snapshotter, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(copyist, "copy_from_host", fail)
    snapshotter.begin(1, 1, {0: state(1.0)}, None)
    with pytest.raises(type(error)):
        snapshotter.wait(lambda: None)


def test_where_no_thread_can_be_started_the_snapshot_fails_and_the_next_one_starts_it(
    snapshotter: Snapshotter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        snapshotter.begin(1, 1, {0: state(1.0)}, None)
        assert snapshotter.is_done
        with pytest.raises(StorageError, match=r"the copy failed: .*can't start new thread"):
            snapshotter.wait(lambda: None)
        assert snapshotter.wait(lambda: None) is None
    assert take(snapshotter, 2, state(2.0)).step == 2


class Copier:
    """Stands in for a GPU's."""

    def __init__(self, device: torch.device, nice: int) -> None:
        self.is_closed = False

    def settle(self) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True


def test_after_a_failed_copy_no_thread_of_it_still_reads_buffers(
    snapshotter: Snapshotter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pool may have got some of its threads, and not all; and what waits in its queue is of no use any more."""
    copiers = snapshotter._copyist._copiers
    copier = Copier(torch.device("cpu"), 0)
    copiers[torch.device("cpu")] = copier  # type: ignore[assignment]

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(copyist, "copy_from_host", refuse)
    snapshotter.begin(1, 1, {0: state(1.0)}, None)
    with pytest.raises(StorageError):
        snapshotter.wait(lambda: None)
    assert copier.is_closed
    assert copiers == {}


def test_tensors_are_let_go_of_when_their_copy_failed(
    snapshotter: Snapshotter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(copyist, "copy_from_host", fail)
    monkeypatch.setattr(copyist.log, "disabled", True)  # pytest keeps what is logged
    held = state(1.0)
    watch = weakref.ref(held.tensors["weight"])
    gc.disable()
    try:
        snapshotter.begin(1, 1, {0: held}, None)
        del held
        with contextlib.suppress(StorageError):
            snapshotter.wait(lambda: None)
        wait_until(lambda: watch() is None)  # once the copying thread is about to sleep
    finally:
        gc.enable()

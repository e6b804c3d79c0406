"""A worker goes on training when its snapshot fails, whatever the reason, and says so in the next vote."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from holdfast.control.snapshotting import Tally
from holdfast.model.messages import FromWorker, Snapshotted
from holdfast.model.records import Action, StartRecord, Version
from holdfast.spec import JobSpec
from holdfast.worker.snapshots import Snapshots
from holdfast_checkpoint import copyist
from holdfast_checkpoint.snapshot import Snapshotter

START = StartRecord(
    generation=1, action=Action.TRAIN, version=Version(0, 0), plan=None, transfers=(), roll_forward=None,
    redone_steps=0, initialise=False, kept=None, checkpoint_step=0,
)  # fmt: skip


class Layer:
    """As much of one as a snapshot wants."""

    name = "layer"

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"model.weight": torch.ones(20)}

    def scalars(self) -> dict[str, object]:
        return {}


@pytest.fixture
def snapshotter() -> Iterator[Snapshotter]:
    made = Snapshotter()
    yield made
    made.close()


def out_of_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def no_more_threads(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    ("owner", "name", "failing"),
    [(copyist, "copy_from_host", out_of_memory), (threading.Thread, "start", no_more_threads)],
    ids=["full GPU", "no more threads"],
)
def test_training_goes_on_when_a_snapshot_fails_and_a_later_one_is_taken(
    snapshotter: Snapshotter, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, failing: object
) -> None:
    monkeypatch.setattr("holdfast.worker.snapshots._COPIES_S", 0.0)
    spec = JobSpec.model_validate({
        "name": "toy", "program": {"entry": "a:b"}, "steps": 9, "snapshots": {"every": 1},
    })  # fmt: skip
    sent: list[FromWorker] = []
    snapshots = Snapshots(spec, sent.append, counts_cpu=False, snapshotter=snapshotter)
    snapshots.enter(START)
    layer: Any = Layer()

    def commit(step: int) -> bool:
        """Whether a snapshot of it was begun."""
        snapshots.settle(lambda: None)
        tally = Tally.of([snapshots.standing()])
        is_due = snapshots.is_due(step, tally)
        if is_due:
            snapshots.begin(Version(step, 1), {0: layer}, None, tally)
        return is_due

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, failing)
        assert commit(1)
        snapshots.settle(lambda: None)
    assert snapshots.standing().failed
    assert not any(isinstance(message, Snapshotted) for message in sent)
    assert any(commit(step) for step in range(2, 6))
    snapshots.settle(lambda: None)
    assert [message.version.step for message in sent if isinstance(message, Snapshotted)] != []

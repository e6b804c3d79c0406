"""Final layers are written in spite of a storage that fails for now; whoever waits for it stays awake."""

import threading
from pathlib import Path

import fsspec
import pytest
import torch
from torch import nn

from harness.storage.faulty import FaultyFileSystem, State
from holdfast.errors import AbortedError, JobFailedError
from holdfast.program import Layer, Program
from holdfast.worker.final import FinalWriter, join_final, submission_of
from holdfast.worker.layers import HeldLayer
from holdfast_checkpoint.errors import FormatError

GIVE_UP_S = 30.0


def layer() -> HeldLayer:
    module = nn.Linear(3, 2)
    program = Program(
        layers=(Layer(name="only", build=lambda: module),),
        loss=nn.functional.mse_loss,
        dataset=[(torch.zeros(3), torch.zeros(2))],
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        global_batch=1,
        microbatch=1,
    )
    return HeldLayer(program, 0, module, torch.device("cpu"))


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """While this file is there, the storage hangs, or says that it is busy."""
    path = tmp_path / "gate"

    def opened(url: str, **_: object) -> tuple[FaultyFileSystem, str]:
        filesystem = FaultyFileSystem(rate=0.0, gate=str(path), state=State(), skip_instance_cache=True)
        return filesystem, str(tmp_path / "out")

    monkeypatch.setattr(fsspec, "url_to_fs", opened)
    return path


@pytest.mark.parametrize("how", ["busy", ""])
def test_a_storage_that_comes_back_gets_the_layers_and_the_worker_beats_meanwhile(
    tmp_path: Path, gate: Path, how: str
) -> None:
    gate.write_text(how)
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1
        if beats == 50:
            gate.unlink()

    FinalWriter("faulty://out", "mine", GIVE_UP_S).write([layer()], beat)

    assert beats >= 50
    assert submission_of(tmp_path / "out") == "mine"
    weights, _ = join_final(tmp_path / "out", ["only"], "mine")
    assert weights


def test_an_abort_ends_the_wait(gate: Path) -> None:
    gate.write_text("")  # it hangs
    begun = threading.Event()

    def beat() -> None:
        if begun.is_set():
            raise AbortedError("a peer is gone")
        begun.set()

    with pytest.raises(AbortedError):
        FinalWriter("faulty://out", "mine", GIVE_UP_S).write([layer()], beat)
    gate.unlink()


def test_a_place_that_does_not_take_them_in_time_fails_the_job_and_says_what_to_do(gate: Path) -> None:
    gate.write_text("")
    with pytest.raises(JobFailedError, match=r"cannot be written to faulty://out: .*layer 0.*submit the job again"):
        FinalWriter("faulty://out", "mine", 0.2).write([layer()], lambda: None)
    gate.unlink()


def test_layers_of_two_submissions_are_not_joined(tmp_path: Path) -> None:
    FinalWriter(str(tmp_path), "first", GIVE_UP_S).write([layer()], lambda: None)
    with pytest.raises(FormatError, match="written by another job"):
        join_final(tmp_path, ["only"], "second")

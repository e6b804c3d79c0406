"""Final layers are written in spite of a storage that fails for now; whoever waits for it stays awake."""

import shutil
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
from holdfast_checkpoint.final import FinalPlace

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
    FinalPlace("faulty://out").mark("mine", b"{}")
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
        FinalWriter("faulty://out", "", 0.2).write([layer()], lambda: None)
    gate.unlink()


class Mount:
    """The folder of a server, and what lies beneath it while it is not mounted."""

    def __init__(self, folder: Path) -> None:
        self.place, self._away = folder / "out", folder / "away"
        FinalPlace(str(self.place)).mark("mine", b"{}")

    def unmount(self) -> None:
        self.place.rename(self._away)
        self.place.mkdir()

    def mount(self) -> None:
        shutil.rmtree(self.place)
        self._away.rename(self.place)


def test_a_place_that_is_not_there_at_the_end_fails_the_job_and_gets_no_layer(tmp_path: Path) -> None:
    mount = Mount(tmp_path)
    mount.unmount()
    with pytest.raises(JobFailedError, match=r"does not have the mark of submission mine: .*is it mounted\?"):
        FinalWriter(str(mount.place), "mine", 1.0).write([layer()], lambda: None)
    assert not list(mount.place.rglob("*"))


def test_a_place_that_goes_away_between_two_layers_and_comes_back_gets_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount, put, marked = Mount(tmp_path), FinalPlace.put_layer, FinalPlace.marked
    went = False

    def put_layer(place: FinalPlace, index: int, path: Path, given_up: threading.Event | None = None) -> None:
        nonlocal went
        if not went:
            went = True
            mount.unmount()
        put(place, index, path, given_up)

    def marked_or_mounted(place: FinalPlace, submission: str) -> bytes | None:
        found = marked(place, submission)
        if found is None:
            mount.mount()
        return found

    monkeypatch.setattr(FinalPlace, "put_layer", put_layer)
    monkeypatch.setattr(FinalPlace, "marked", marked_or_mounted)
    FinalWriter(str(mount.place), "mine", GIVE_UP_S).write([layer()], lambda: None)
    assert went
    assert submission_of(mount.place) == "mine"


def test_layers_of_two_submissions_are_not_joined(tmp_path: Path) -> None:
    FinalPlace(str(tmp_path)).mark("first", b"{}")
    FinalWriter(str(tmp_path), "first", GIVE_UP_S).write([layer()], lambda: None)
    with pytest.raises(FormatError, match="written by another job"):
        join_final(tmp_path, ["only"], "second")

"""A Program small enough to inspect at once, and the command line called as a shell would call it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.cli.main import main

PROGRAM = """
import torch
from torch import nn
from holdfast.program import Layer, Program

class Ones(torch.utils.data.Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, index):
        return torch.ones(4), torch.ones(1)

def program(width=4):
    return Program(
        layers=(
            Layer(name="first", build=lambda: nn.Linear(4, width)),
            Layer(name="last", build=lambda: nn.Linear(width, 1)),
        ),
        loss=nn.functional.mse_loss,
        dataset=Ones(),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        global_batch=8,
        microbatch=2,
    )

def broken():
    raise RuntimeError("no model today")
"""
SPEC = """
name: small
program:
  entry: small.py:program
steps: 5
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A spec that is right, beside its Program."""
    (tmp_path / "small.py").write_text(PROGRAM, encoding="utf-8")
    path = tmp_path / "small.yaml"
    path.write_text(SPEC, encoding="utf-8")
    return path


@pytest.fixture
def holdfast(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`holdfast(*arguments)`: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["holdfast", *map(str, arguments)])
        monkeypatch.setattr("signal.signal", lambda *_: None)  # the last thing that main does is to ignore Ctrl-C
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capfd.readouterr()
        code = caught.value.code
        return code if isinstance(code, int) else 0, captured.out, captured.err

    return call

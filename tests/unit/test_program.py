"""What a user writes: that a wrong Program, or an entry that makes none, is refused by name."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import ProgramError, SpecError, UserCodeError
from holdfast.program import Layer, Program, Tied, load_program, with_batch


def layer(name: str) -> Layer:
    return Layer(name=name, build=lambda: None)  # type: ignore[arg-type, return-value]


def make(**changes: Any) -> Program:
    fields: dict[str, Any] = {
        "layers": (layer("first"), layer("second")),
        "loss": lambda output, target: None,
        "dataset": [],
        "optimizer": lambda parameters: None,
        "global_batch": 12,
        "microbatch": 3,
    }
    return Program(**fields | changes)


def test_microbatches_fill_the_global_batch() -> None:
    assert make().microbatches == 4


def test_blocks_must_divide_the_microbatches() -> None:
    assert make().blocks(2) == 2
    with pytest.raises(ProgramError, match=r"block: 3 does not divide the 4 microbatches .* use one of 1, 2, 4"):
        make().blocks(3)


def test_a_spec_may_give_another_batch_than_the_program() -> None:
    program = make()
    assert with_batch(program, None, None) == program
    changed = with_batch(program, 24, 4)
    assert (changed.global_batch, changed.microbatch, changed.microbatches) == (24, 4, 6)
    assert with_batch(program, None, 4).microbatches == 3


@pytest.mark.parametrize(
    ("size", "microbatch", "message"),
    [
        (10, None, r"batch.size: 10 given; a batch of 10 is not a multiple of microbatch 3; .* size 9, 12"),
        (None, 5, r"batch.microbatch: 5 given; a batch of 12 is not a multiple of microbatch 5; .* size 10, 15"),
        (7, 4, r"batch.size: 7 given, batch.microbatch: 4 given; a batch of 7"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_by_the_specs_fields(
    size: int | None, microbatch: int | None, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        with_batch(make(), size, microbatch)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ()}, r"layers: \(\) given; should be a tuple of at least one Layer"),
        ({"layers": [layer("a")]}, "layers: .* given; should be a tuple"),
        ({"layers": (layer("a"), 3)}, r"layers\[1\]: 3 given; should be a Layer"),
        ({"layers": (layer("a.b"),)}, r"layers\[0\].name: 'a.b' given; should be one or more of"),
        ({"layers": (layer(""),)}, r"layers\[0\].name: '' given"),
        ({"layers": (layer("a"), layer("a"))}, r"layers\[1\].name: 'a' is taken by layers\[0\]; names must differ"),
        ({"layers": (Layer(name="a", build=None),)}, r"layers\[0\].build: None given"),  # type: ignore[arg-type]
        ({"loss": "mse"}, "loss: 'mse' given; should be a function of output and target"),
        ({"optimizer": None}, "optimizer: None given; should be a function"),
        ({"lr_schedule": 0.1}, "lr_schedule: 0.1 given; should be a function of the step, or None"),
        ({"dataset": iter([])}, r"dataset: .* given; should have len\(\)"),
        ({"global_batch": 0}, "global_batch: 0 given; should be a whole number above 0"),
        ({"microbatch": 1.0}, "microbatch: 1.0 given; should be a whole number above 0"),
        ({"global_batch": True}, "global_batch: True given"),
        ({"global_batch": 10}, "global_batch: 10 is not a multiple of microbatch 3; use 9, 12"),
        ({"global_batch": 2}, "global_batch: 2 is not a multiple of microbatch 3; use 3$"),
        ({"clip_grad_norm": 0}, "clip_grad_norm: 0 given; should be a number above 0, or None"),
        ({"clip_grad_norm": float("nan")}, "clip_grad_norm: nan given"),
        ({"seed": "x"}, "seed: 'x' given; should be a whole number"),
        ({"tied": (Tied(a="first", b="second.w"),)}, r"tied\[0\].a: 'first' given; should be 'layer.path"),
        ({"tied": (Tied(a="first.w", b="third.w"),)}, r"tied\[0\].b: 'third.w' names no layer; .* first, second"),
        ({"tied": (Tied(a="first.w", b="first.v"),)}, r"tied\[0\]: both sides lie in layer 'first'"),
        ({"tied": [Tied(a="first.w", b="second.v")]}, "tied: .* given; should be a tuple of Tied"),
    ],
)
def test_a_wrong_field_is_refused_with_its_value_and_what_would_be_right(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        make(**changes)


def test_every_wrong_field_is_listed_at_once() -> None:
    with pytest.raises(ProgramError, match=r"loss: (.|\n)*microbatch: (.|\n)*seed: "):
        make(loss=None, microbatch=0, seed=None)


def test_a_program_needs_no_torch() -> None:
    code = "import sys, holdfast.program, holdfast.spec, holdfast.model.facts; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


USER_CODE = """
from holdfast.program import Layer, Program
from settings_of_this_test import BATCH

def program(width, *, rate=0.1):
    if width > 9:
        raise ValueError("too wide")
    return Program(layers=(Layer(name="a", build=int),), loss=print, dataset=[], optimizer=list,
                   global_batch=BATCH, microbatch=width)

def number():
    return 3

_hidden = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "user_code_of_this_test.py").write_text(USER_CODE)
    (tmp_path / "code" / "settings_of_this_test.py").write_text("BATCH = 8\n")
    (tmp_path / "code" / "broken_of_this_test.py").write_text("import no_such_module_anywhere\n")
    (tmp_path / "code" / "exits_of_this_test.py").write_text("raise SystemExit('no')\n")
    return tmp_path


def test_an_entry_in_a_file_is_relative_to_the_spec_and_imports_its_neighbours(folder: Path) -> None:
    assert load_program("code/user_code_of_this_test.py:program", {"width": 4}, folder).microbatches == 2


def test_an_entry_in_a_module_is_found_beside_the_spec(folder: Path) -> None:
    assert load_program("user_code_of_this_test:program", {"width": 4}, folder / "code").microbatches == 2


@pytest.mark.parametrize(
    ("entry", "params", "message"),
    [
        ("program", {}, "program.entry: 'program' given; should be 'module:function' or 'path/file.py:function'"),
        ("code/absent.py:program", {}, "there is no file .*/code/absent.py"),
        ("absent_module:program", {}, "there is no module 'absent_module', neither installed nor in"),
        ("../outside:program", {}, "is no module's name; should be 'module:function'"),
        (f"{'x' * 300}.py:program", {}, "File name too long"),
        ("code/user_code_of_this_test.py:progam", {}, "has no function 'progam'; did you mean 'program'?"),
        ("code/user_code_of_this_test.py:_hidden", {}, "has no function '_hidden'; it has program, number"),
        ("code/user_code_of_this_test.py:program", {}, "program.params.width: missing"),
        (
            "code/user_code_of_this_test.py:program",
            {"witdh": 3},
            r"program.params.witdh: 3 given, but .* takes no 'witdh'; did you mean 'width'\?\nprogram.params.width: ",
        ),
        ("code/user_code_of_this_test.py:number", {}, "returned 3; should return a holdfast Program"),
        ("code/user_code_of_this_test.py:program", {"width": 3}, "global_batch: 8 is not a multiple of microbatch 3"),
    ],
)
def test_an_entry_that_makes_no_program_is_refused(
    folder: Path, entry: str, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(ProgramError, match=message):
        load_program(entry, params, folder)


@pytest.mark.parametrize(
    ("entry", "cause", "message"),
    [
        ("code/user_code_of_this_test.py:program", ValueError, r"program\(\) raised ValueError: too wide"),
        ("code/broken_of_this_test.py:program", ModuleNotFoundError, "importing it raised ModuleNotFoundError"),
        ("code/exits_of_this_test.py:program", SystemExit, "importing it raised SystemExit: no"),
    ],
)
def test_an_exception_in_the_users_code_is_passed_on_with_its_traceback(
    folder: Path, entry: str, cause: type[BaseException], message: str
) -> None:
    with pytest.raises(UserCodeError, match=message) as caught:
        load_program(entry, {"width": 10}, folder)

    assert isinstance(caught.value.__cause__, cause)
    assert caught.value.__cause__.__traceback__ is not None

"""The command line: what is refused, with which exit code, and that it is refused before anything starts."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast import __version__
from holdfast.cli.arguments import assignments
from holdfast.errors import UserError

Holdfast = Callable[..., tuple[int, str, str]]


def test_help_names_the_commands_and_the_exit_codes(holdfast: Holdfast) -> None:
    code, output, _ = holdfast("--help")

    assert code == 0
    commands = ("run", "validate", "submit", "agent", "status", "drain", "stop", "events", "ckpt", "profile", "plan")
    for word in (*commands, "simulate", "Exit codes", "130"):
        assert word in output


def test_help_and_version_load_neither_torch_nor_pydantic() -> None:
    """What `holdfast --help` takes is what it imports; a time would measure the machine's other work."""
    script = "import sys, holdfast.cli.main; print([m for m in ('torch', 'pydantic', 'aiohttp') if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert ended.stdout.strip() == "[]"


def test_version(holdfast: Holdfast) -> None:
    assert holdfast("--version")[:2] == (0, f"holdfast {__version__}\n")


def test_validate_shows_each_layer_and_the_sum(holdfast: Holdfast, spec: Path) -> None:
    code, output, _ = holdfast("validate", spec)

    assert code == 0
    assert "first" in output
    assert "float32[2, 4]" in output
    assert "25 parameters in 2 layers" in output


def test_validate_as_json(holdfast: Holdfast, spec: Path) -> None:
    code, output, _ = holdfast("validate", spec, "--json", "--set", "program.params.width=8")

    described = json.loads(output)
    assert code == 0
    assert [layer["parameters"] for layer in described["layers"]] == [40, 9]
    assert sum(layer["flops_share"] for layer in described["layers"]) == pytest.approx(1)
    assert (described["parameters"], described["microbatches"]) == (49, 4)


def test_a_batch_of_the_spec_stands_in_for_the_programs(holdfast: Holdfast, spec: Path) -> None:
    _, output, _ = holdfast("validate", spec, "--json", "--set", "batch.size=12", "--set", "batch.microbatch=3")
    described = json.loads(output)
    assert (described["global_batch"], described["microbatch"], described["microbatches"]) == (12, 3, 4)

    code, _, error = holdfast("validate", spec, "--set", "batch.size=12", "--set", "block=4")
    assert code == 2
    assert "block: 4 does not divide the 6 microbatches" in error


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("steps: -3", "steps: -3 given"),
        ("stepz: 3", "did you mean steps?"),
        ("block: 3", "block: 3 does not divide the 4 microbatches"),
        ("layout: {depth: 3}", "layout.depth: 3 given; should be at most 2"),
        ("layout: {memory_per_slot_bytes: 100}", "layout.memory_per_slot_bytes: 100 is too little for layer 'first'"),
        ("reduction: sum", "reduction: 'sum' given"),
    ],
)
def test_a_broken_spec_is_refused_by_field_value_and_remedy(
    holdfast: Holdfast, spec: Path, line: str, complaint: str
) -> None:
    field = line.partition(":")[0]
    kept = [old for old in spec.read_text(encoding="utf-8").splitlines() if not old.startswith(field)]
    spec.write_text("\n".join([*kept, line]), encoding="utf-8")

    code, output, error = holdfast("validate", spec)

    assert code == 2
    assert error.startswith("holdfast: error: ")
    assert complaint in error
    assert "Traceback" not in error + output


def test_users_code_that_raises_is_shown_with_its_traceback(holdfast: Holdfast, spec: Path) -> None:
    code, _, error = holdfast("validate", spec, "--set", "program.entry=small.py:broken")

    assert code == 2
    assert "RuntimeError: no model today" in error
    assert 'small.py", line' in error


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--nodes", "0"], "--nodes"),
        (["--steps", "many"], "--steps"),
        (["--set", "steps"], "should be PATH=VALUE"),
        (["--set", "steps=[1"], "neither JSON nor YAML"),
        (["--set", "nodes.max=2", "--nodes", "3"], "nodes.max: 2 given"),
        (["--reduction", "sum"], "reduction: 'sum' given"),
        (["--fault", "kil node-0 at step 1"], "did you mean 'kill'?"),
        (["--nodes", "2", "--fault", "kill node-2 at step 1"], "there never will be node-2"),
        (["--steps", "3", "--fault", "kill node-0 at step 4"], "the job ends after step 3"),
        (["--set", "layout.memory_per_slot_bytes=10"], "memory_per_slot_bytes: 10 is too little"),
    ],
)
def test_run_refuses_wrong_input_before_anything_starts(
    holdfast: Holdfast, spec: Path, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    out = tmp_path / "out"

    code, output, error = holdfast("run", spec, "--out", out, *arguments)

    assert code == 2
    assert complaint in error
    assert "Traceback" not in error + output
    assert not out.exists()


@pytest.mark.parametrize(("held", "is_refused"), [("report.json", True), ("notes.txt", False)])
def test_run_does_not_overwrite_what_an_earlier_run_left(
    holdfast: Holdfast, spec: Path, tmp_path: Path, held: str, is_refused: bool
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / held).write_text("{}", encoding="utf-8")

    # The fault is wrong too: it is what is complained of when the folder is free.
    code, _, error = holdfast("run", spec, "--out", out, "--fault", "nonsense")

    assert code == 2
    assert ("holds an earlier run (report.json)" in error) == is_refused
    assert (out / held).read_text(encoding="utf-8") == "{}"


def test_run_refuses_an_out_that_is_a_file(holdfast: Holdfast, spec: Path) -> None:
    code, _, error = holdfast("run", spec, "--out", spec)

    assert code == 2
    assert "is a file; should be a folder" in error


@pytest.mark.parametrize("command", [["status"], ["drain"], ["stop"], ["events"]])
def test_a_folder_without_a_run_is_refused(holdfast: Holdfast, tmp_path: Path, command: list[str]) -> None:
    code, _, error = holdfast(*command, tmp_path, *(["node-1"] if command == ["drain"] else []))

    assert code == 2
    assert "there is no run in this folder" in error


def test_values_are_read_as_json_then_as_yaml() -> None:
    read = assignments(["a.b=3e-4", "a.c=8GiB", "d=[1, 2]", "e=true", "f=", "g=x=y", "h=null"])

    assert read == {"a.b": 3e-4, "a.c": "8GiB", "d": [1, 2], "e": True, "f": None, "g": "x=y", "h": None}


@pytest.mark.parametrize("text", ["=3", "steps", "a..b=3", ".a=3"])
def test_an_assignment_without_a_path_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="should be PATH=VALUE"):
        assignments([text])


def test_refusing_takes_no_wait_for_a_dead_run(holdfast: Holdfast, tmp_path: Path) -> None:
    """A run whose launcher was killed leaves a run.json that nobody answers for."""
    info = {"job": "small", "store": "127.0.0.1:1", "launcher_pid": 1, "spec": "small.yaml"}
    (tmp_path / "run.json").write_text(json.dumps(info), encoding="utf-8")
    begun_s = time.monotonic()

    code, output, _ = holdfast("status", tmp_path)

    assert code == 0
    assert "ended without a report" in output
    assert time.monotonic() - begun_s < 30

"""A machine that has another Program than the job, or another folder, is told so before it takes part."""

import dataclasses
import sys
from pathlib import Path

import pytest

from holdfast.agent.program_source import check_machine, check_out, source_sha256
from holdfast.errors import ProgramError, UserError, VersionError
from holdfast.model.records import JobRecord
from holdfast_checkpoint.final import FinalPlace


def record(base: Path, out: Path, entry: str) -> JobRecord:
    return JobRecord(
        spec={"name": "job", "program": {"entry": entry}, "steps": 1},
        base=str(base),
        out=str(out),
        layer_names=("a",),
        layer_bytes=(1,),
        microbatches=1,
        steps=1,
        source_sha256=source_sha256(entry, base),
    )


@pytest.mark.parametrize("entry", ["gpt.py:program", "gpt:program", "models.gpt:program"])
def test_the_same_file_elsewhere_is_the_same_program(tmp_path: Path, entry: str) -> None:
    for folder in ("here", "there"):
        (tmp_path / folder / "models").mkdir(parents=True)
        (tmp_path / folder / "models" / "__init__.py").write_text("raise RuntimeError('a check runs no code')")
        for name in ("gpt.py", "models/gpt.py"):
            (tmp_path / folder / name).write_text("raise RuntimeError('a check runs no code')")
    made = record(tmp_path / "here", tmp_path, entry)
    there = dataclasses.replace(made, base=str(tmp_path / "there"))

    check_machine(there)
    for name in ("gpt.py", "models/gpt.py"):
        (tmp_path / "there" / name).write_text("other")
    with pytest.raises(ProgramError, match="bring the code on all machines to the same version"):
        check_machine(there)


@pytest.mark.parametrize("entry", ["absent_gpt.py:program", "absent_gpt:program", "absent_models.gpt:program"])
def test_a_program_that_is_not_there_is_named_with_where_it_was_looked_for(tmp_path: Path, entry: str) -> None:
    with pytest.raises(ProgramError, match=str(tmp_path)):
        source_sha256(entry, tmp_path)


def test_an_installed_module_is_found_and_a_built_in_one_has_no_file(tmp_path: Path) -> None:
    assert source_sha256("json.decoder:program", tmp_path)
    assert "_struct" in sys.modules
    assert source_sha256("_struct:program", tmp_path) == ""


async def test_a_folder_of_another_submission_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gpt.py").write_text("")
    made = dataclasses.replace(record(tmp_path, tmp_path / "out", "gpt.py:program"), id="abc")

    place = FinalPlace(str(tmp_path / "out"))
    with pytest.raises(UserError, match="has no mark of this job here; mount the folder"):
        await check_out(made)
    place.mark("abd", b"another")
    with pytest.raises(UserError, match="has no mark of this job here"):
        await check_out(made)
    place.mark("abc", b"this one")
    await check_out(made)


async def test_a_place_that_nobody_can_open_is_refused_with_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "gpt.py").write_text("")
    made = dataclasses.replace(record(tmp_path, tmp_path, "gpt.py:program"), id="abc", out="s3://key:secret@bucket")

    with pytest.raises(UserError, match="--out: the checkpoint URL for s3://bucket holds credentials"):
        await check_out(made)


def test_a_machine_with_another_torch_is_told_both_versions(tmp_path: Path) -> None:
    (tmp_path / "gpt.py").write_text("")
    made = dataclasses.replace(record(tmp_path, tmp_path, "gpt.py:program"), versions=(("torch", "1.13.0"),))

    with pytest.raises(VersionError, match=r"submitted with torch 1\.13\.0, this machine has 2"):
        check_machine(made)

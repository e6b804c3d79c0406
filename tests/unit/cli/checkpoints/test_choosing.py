"""Which checkpoint a command is about, and what is said of a URL or step that is none."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.server_process import free_ports
from harness.storage.making import (
    Making,
    folders_of,
    make_checkpoint,
    make_unfinished,
)
from holdfast.cli.checkpoints import choosing

Holdfast = Callable[..., tuple[int, str, str]]
Ckpt = Callable[..., Any]


@pytest.mark.parametrize("command", [["ls"], ["show"], ["verify"], ["export", "--to", "w.safetensors"], ["prune"]])
def test_where_there_is_no_checkpoint_the_exit_code_is_2(
    tmp_path: Path, holdfast: Holdfast, command: list[str]
) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        code, output, error = holdfast("ckpt", *command, f"file://{place}")

        assert (code, output) == (2, "")
        assert f"{place}: there is no checkpoint there" in error


def test_a_step_that_is_not_there_is_answered_with_those_that_are(url: str, holdfast: Holdfast) -> None:
    code, _, error = holdfast("ckpt", "show", url, "--step", 25)

    assert code == 2
    assert "--step 25" in error
    assert "it has steps 10, 20, 30" in error


@pytest.mark.parametrize("command", ["show", "verify"])
def test_a_half_written_checkpoint_is_refused_as_such(url: str, holdfast: Holdfast, command: str) -> None:
    folder = make_unfinished(url, 40)

    code, _, error = holdfast("ckpt", command, url, "--step", 40)

    assert code == 1
    assert f"{folder} is half-written" in error


def test_the_newest_is_the_newest_committed_one(url: str, ckpt: Ckpt) -> None:
    make_unfinished(url, 40)

    assert ckpt("show", url)["step"] == 30


def test_a_folder_can_be_named_where_two_runs_share_a_step(url: str, ckpt: Ckpt) -> None:
    other = make_checkpoint(url, 20, Making(run="f" * 32, job="other"))

    assert ckpt("show", url, "--folder", other)["job"] == "other"
    assert ckpt("show", url, "--folder", folders_of(url)[1])["job"] == "small"


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("nonsense://there", "nonsense"),
        ("s3://key:secret@bucket/there", "holds credentials; leave them out"),
    ],
)
def test_a_url_that_nobody_can_open_is_wrong_input(holdfast: Holdfast, address: str, complaint: str) -> None:
    code, output, error = holdfast("ckpt", "ls", address)

    assert (code, output) == (2, "")
    assert complaint in error
    assert "secret" not in error
    assert "Traceback" not in error


def test_a_url_whose_package_is_missing_says_what_to_install(url: str) -> None:
    script = (
        "import sys; sys.modules['s3fs'] = None\n"
        "sys.argv = ['holdfast', 'ckpt', 'ls', 's3://bucket/there']\n"
        "from holdfast.cli.main import main; main()"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert ended.returncode == 2
    assert "pip install" in ended.stderr
    assert "s3" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_help_of_a_command_loads_neither_torch_nor_fsspec() -> None:
    script = (
        "import sys; sys.argv = ['holdfast', 'ckpt', 'verify', '--help']\n"
        "from holdfast.cli.main import main\n"
        "try: main()\n"
        "finally: print('LOADED', [m for m in ('torch', 'fsspec', 'numpy', 'xxhash') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert ended.stdout.splitlines()[-1] == "LOADED []"


def test_a_storage_that_does_not_answer_is_named_and_exits_with_1(
    holdfast: Holdfast, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "one",
        "AWS_SECRET_ACCESS_KEY": "two",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(choosing, "_GIVE_UP_S", 0.3)

    code, output, error = holdfast("ckpt", "ls", "s3://bucket/there")

    assert (code, output) == (1, "")
    assert "s3://bucket/there" in error
    assert "no answer" in error

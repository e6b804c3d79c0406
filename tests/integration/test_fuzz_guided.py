"""Coverage-guided fuzzing (atheris) finds nothing that is neither taken nor refused."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.records import RECORDS
from holdfast.model.wire import encode

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("atheris") is None,
        reason="atheris is not installed: it has no wheel for this Python or machine, so only hypothesis fuzzes here",
    ),
]
TESTS = Path(__file__).parents[1]
SEEDS = {
    "record": [bytes([number]) + encode(RECORDS[key]) for number, key in enumerate(sorted(RECORDS))],
    "message": [b'Ready {"v":1,"body":{"slot":{"node":"n","index":0},"worker":"w","pid":1,"address":"h:1"}}'],
    "authorization": [b"Holdfast 1 " + b"a" * 32 + b" " + b"b" * 64],
    "frame": [b"\x00\x00\x00\x26" + b'{"v":1,"id":0,"args":["put","k","",0]}'],
    "address": [b"etcds://h1:2379,[::1]:2/a/b", b"127.0.0.1:80"],
}


@pytest.mark.parametrize("target", SEEDS)
def test_whatever_comes_in_is_taken_or_refused(tmp_path: Path, target: str) -> None:
    for number, seed in enumerate(SEEDS[target]):
        (tmp_path / str(number)).write_bytes(seed)
    options = ("-max_total_time=5", "-seed=1", "-max_len=4096", f"-artifact_prefix={tmp_path}/found-", str(tmp_path))
    ended = subprocess.run(
        [sys.executable, "-m", "harness.guided", target, *options],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert "INITED" in ended.stderr, "it was run at all"

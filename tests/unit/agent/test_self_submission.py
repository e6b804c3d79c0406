"""An agent that submits its job itself waits for what may pass, and for nothing else."""

import asyncio
import os
from pathlib import Path

import pytest

from holdfast.agent.self_submission import SelfSubmission
from holdfast.errors import HoldfastError
from holdfast.stores.memory import MemoryStore

# Found before the rest of Python is: the process of the submission has a bug.
BUG = """
import sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "holdfast.cli.submitting":
            raise RuntimeError("a bug of ours")

sys.meta_path.insert(0, Finder())
"""


async def test_a_bug_in_submitting_is_told_and_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(BUG)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    one = SelfSubmission(spec=tmp_path / "job.yaml", base=tmp_path, out="", store="embedded://127.0.0.1:1", secrets={})
    with pytest.raises(HoldfastError, match=r"(?s)exit status 70\).*RuntimeError: a bug of ours"):
        await asyncio.wait_for(one.ensure(MemoryStore(), "toy", tmp_path), 50.0)

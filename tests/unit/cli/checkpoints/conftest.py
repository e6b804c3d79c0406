"""A storage of three small checkpoints in a folder, and `holdfast ckpt` called as a shell would call it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.storage.making import make_checkpoint

Holdfast = Callable[..., tuple[int, str, str]]
Ckpt = Callable[..., Any]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Steps 10, 20 and 30 of one run."""
    storage = tmp_path / "storage"
    storage.mkdir()
    for step in (10, 20, 30):
        make_checkpoint(f"file://{storage}", step)
    return f"file://{storage}"


@pytest.fixture
def ckpt(holdfast: Holdfast) -> Ckpt:
    """`ckpt(*arguments)` with --json: what it printed; the exit code is 0 unless `code` says otherwise."""

    def call(*arguments: object, code: int = 0) -> Any:
        ended, output, error = holdfast("ckpt", *arguments, "--json")
        assert ended == code, error
        return json.loads(output)

    return call

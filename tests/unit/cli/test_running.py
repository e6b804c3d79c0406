"""A run whose nodes cannot be started says so, and ends."""

from pathlib import Path

import pytest

from holdfast.agent.fork_server import Command
from holdfast.cli import running
from holdfast.cli.preparing import Wish
from holdfast.cli.running import Options, run_job
from holdfast.errors import HoldfastError


def test_what_nodes_are_forked_from_that_does_not_start_ends_the_run(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "nodes_command", lambda: Command(module="holdfast.no_such_module"))
    options = Options(out=tmp_path / "out", overwrite=False, plain=True, as_json=False)

    with pytest.raises(HoldfastError, match=r"node-0: could not be started: .* ended with status 1"):
        run_job(Wish(spec=spec, nodes=2), options)

"""Contenders: things that train step by step in processes of their own, and can be told to pause.

A peer is one script run as several ranks; it appends a line {"step", "time_s"} to a file at each of its steps.
"""

import itertools
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.harness.lines import JsonLines
from benchmarks.harness.processes import REPOSITORY, Child, descendants, signal_process

Commit = tuple[int, float]  # committed steps, wall clock of the process that says so


class Contender(Protocol):
    """What can be measured in turns."""

    @property
    def name(self) -> str: ...

    def commits(self) -> Sequence[Commit]:
        """All so far, oldest first."""
        ...

    def check(self) -> None:
        """Raises: BenchmarkError: it failed."""
        ...

    def pids(self) -> Sequence[int]:
        """The processes that compute."""
        ...


def pause(contender: Contender) -> None:
    for pid in contender.pids():
        signal_process(pid, signal.SIGSTOP)


def resume(contender: Contender) -> None:
    for pid in contender.pids():
        signal_process(pid, signal.SIGCONT)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramSource:
    """Where the Program comes from, as a job spec says it."""

    entry: str
    params: Mapping[str, Any]
    base: Path

    def to_json(self) -> str:
        return json.dumps({"entry": self.entry, "params": dict(self.params), "base": str(self.base)})


class PeerRun:
    """A script of benchmarks/peers, run as nodes of `slots` processes each that find each other through a file."""

    def __init__(
        self, script: str, source: ProgramSource, folder: Path, *, nodes: int, slots: int, arguments: Sequence[str]
    ) -> None:
        self.name = script.removesuffix(".py")
        folder.mkdir(parents=True)
        log = folder / "commits.jsonl"
        self._lines = JsonLines(log)
        peers = REPOSITORY / "benchmarks" / "peers"
        script_command = [str(peers / script), "--program", source.to_json(), "--log", str(log)]
        script_command += ["--rendezvous", str(folder / "rendezvous"), *arguments]
        self._nodes = [
            Child(
                [sys.executable, str(peers / "node.py"), str(node * slots), str(slots), *script_command],
                folder / f"node-{node}.log",
                {"WORLD_SIZE": str(nodes * slots)},
            )
            for node in range(nodes)
        ]

    def commits(self) -> Sequence[Commit]:
        return [(line["step"], line["time_s"]) for line in self._lines.read()]

    def check(self) -> None:
        for node in self._nodes:
            node.check()

    def pids(self) -> Sequence[int]:
        return [pid for node in self._nodes for pid in descendants(node.pid)]

    def close(self) -> None:
        for node in self._nodes:
            node.close()


def gaps_s(commits: Sequence[Commit]) -> list[float]:
    """Times between commits of consecutive steps."""
    return [late - early for (step, early), (following, late) in itertools.pairwise(commits) if following == step + 1]

"""One `holdfast run`, driven and watched through what it documents: its command line, nodes.json, events.jsonl and
report.json."""

import json
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.harness.contenders import Commit, resume
from benchmarks.harness.lines import JsonLines
from benchmarks.harness.processes import BenchmarkError, Child, wait_for

# Far more than any benchmark waits for: runs are stopped once they have shown what was asked.
ENDLESS_STEPS = 1_000_000
_START_S = 120.0
_STOP_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What `holdfast run` is told."""

    spec: Path
    nodes: int
    slots: int = 1
    reduction: str | None = None
    faults: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    steps: int = ENDLESS_STEPS

    def command(self, out: Path) -> list[str]:
        command = [sys.executable, "-m", "holdfast.cli.main", "run", str(self.spec), "--plain", "--overwrite"]
        command += ["--out", str(out), "--nodes", str(self.nodes), "--slots", str(self.slots)]
        command += ["--steps", str(self.steps)]
        command += ["--set", "layout.adaptive=false"]  # what is timed is one layout
        command += ["--reduction", self.reduction] if self.reduction else []
        for sentence in self.faults:
            command += ["--fault", sentence]
        for path, value in self.overrides.items():
            command += ["--set", f"{path}={json.dumps(value)}"]
        return command


class HoldfastRun:
    """Use as a context manager; `stop` ends it as Ctrl-C does and returns its report."""

    def __init__(self, request: RunRequest, out: Path, name: str = "holdfast") -> None:
        self.name = name
        self._out = out
        out.parent.mkdir(parents=True, exist_ok=True)
        self._events = JsonLines(out / "events.jsonl")
        self._child = Child(request.command(out), out.with_suffix(".log"))

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """So far, as they were written; of one kind or all."""
        return [event for event in self._events.read() if kind is None or event["kind"] == kind]

    def commits(self) -> Sequence[Commit]:
        return [(event["fields"]["step"], event["time_s"]) for event in self.events("step.committed")]

    @property
    def step(self) -> int:
        return max((step for step, _ in self.commits()), default=0)

    def nodes(self) -> dict[str, dict[str, Any]]:
        """nodes.json: {state, agent_pid, worker_pids} by node."""
        path = self._out / "nodes.json"
        found: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def pids(self) -> Sequence[int]:
        return [pid for node in self.nodes().values() for pid in node["worker_pids"]]

    def check(self) -> None:
        self._child.check()

    def wait_step(self, step: int, within_s: float = _START_S) -> None:
        wait_for(f"step {step} of {self.name}", lambda: self.step >= step, self.check, within_s)

    def wait_recovered(self, generation_after: int, steps: int, within_s: float = _START_S) -> dict[str, Any]:
        """Until a generation beyond `generation_after` has committed `steps` steps; its event of the first one."""

        def recovered() -> dict[str, Any] | None:
            return next(
                (e for e in self.events("generation.recovered") if e["fields"]["generation"] > generation_after), None
            )

        def is_done() -> bool:
            event = recovered()
            return event is not None and sum(time_s >= event["time_s"] for _, time_s in self.commits()) >= steps

        wait_for(f"recovery of {self.name}", is_done, self.check, within_s)
        event = recovered()
        assert event is not None
        return event

    @property
    def generation(self) -> int:
        """The newest that was started."""
        return max((event["fields"]["generation"] for event in self.events("generation.started")), default=0)

    def stop(self) -> dict[str, Any]:
        """End it as Ctrl-C does; its report.json.

        Raises:
            BenchmarkError: it did not end, or left no report.
        """
        resume(self)
        path = self._out / "report.json"
        if not self._child.ask_to_end(signal.SIGINT, _STOP_S) or not path.exists():
            raise BenchmarkError(f"{self.name} did not stop and report within {_STOP_S:.0f} s of a Ctrl-C")
        report: dict[str, Any] = json.loads(path.read_text())
        return report

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Agents die with the launcher, workers with their agents.
        resume(self)
        self._child.close()

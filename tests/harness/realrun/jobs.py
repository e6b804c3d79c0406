"""Runs real jobs for tests: the command line, real processes, what they leave."""

import contextlib
import json
import os
import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.realrun.commands import SERVER, Process, start
from harness.waiting import wait_until
from holdfast.telemetry.files import RunFiles
from holdfast.telemetry.run_event import EventKind

TOY = Path(__file__).parents[2] / "programs" / "toy.py"
# Bounds a hang, on a machine that is busy with other tests.
GIVE_UP_S = 240.0


def toy_spec(folder: Path, *, params: Mapping[str, Any] | None = None, **fields: Any) -> Path:
    """A spec of the toy Program in `folder`; `fields` are laid over it."""
    spec: dict[str, Any] = {
        "name": "toy",
        "program": {"entry": f"{TOY}:program", "params": dict(params or {})},
        "steps": 12,
        # A machine that is busy with other tests must not decide on layouts.
        "layout": {"depth": 2, "adaptive": False},
        # Workers that are killed at one step, by a schedule, are no fault of that step.
        "failures": {"worker_deaths_per_step": 20},
        # Nor may it take a node for lost or cut off that stood still for a moment.
        "timeouts": {"lease_ttl_s": 6.0, "probe_s": 2.0, "progress_s": 20.0, "start_settle_s": 30.0},
    }
    for name, value in fields.items():
        spec[name] = {**spec[name], **value} if isinstance(value, dict) and name in spec else value
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


class Holds:
    """Keeps the toy Program's job at these steps until it is let go: no test has to be faster than its job."""

    def __init__(self, folder: Path, *steps: int) -> None:
        self._folder = folder / "holds"
        self._folder.mkdir()
        for step in steps:
            (self._folder / str(step)).touch()
        self.params = {"holds": str(self._folder)}

    def let_go(self, step: int) -> None:
        (self._folder / str(step)).unlink()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A job that ended."""

    code: int
    output: str
    report: dict[str, Any]
    out: Path

    @property
    def bits(self) -> tuple[str, str, tuple[float, ...]]:
        """What must not depend on what failed."""
        return self.report["weights_sha256"], self.report["optimizer_sha256"], tuple(self.report["losses"])


class RunningJob:
    """A job whose launcher is `process`."""

    def __init__(self, process: Process, out: Path, log: Path) -> None:
        self.process, self.out, self._log = process, out, log

    def nodes(self) -> dict[str, dict[str, Any]]:
        try:
            nodes: dict[str, dict[str, Any]] = json.loads((self.out / "nodes.json").read_text())
        except FileNotFoundError:
            return {}
        return nodes

    def step(self) -> int:
        """Steps committed so far, as events.jsonl tells."""
        return max((told["step"] for told in events_of(self.out, EventKind.STEP_COMMITTED)), default=0)

    def wait_for(self, condition: Callable[["RunningJob"], bool], timeout_s: float = GIVE_UP_S) -> None:
        def holds_or_lives() -> bool:
            if condition(self):
                return True
            is_over = self.process.poll() is not None
            assert not is_over or condition(self), f"the job ended early:\n{self._log.read_text()}"
            return is_over

        wait_until(holds_or_lives, timeout_s, what=lambda: f"it; nodes: {self.nodes()}")

    def end(self, timeout_s: float = GIVE_UP_S) -> Ended:
        code = self.process.wait(timeout_s)
        report = self.out / "report.json"
        return Ended(
            code=code,
            output=self._log.read_text(),
            report=json.loads(report.read_text()) if report.exists() else {},
            out=self.out,
        )


@contextmanager
def job(
    spec: Path,
    out: Path,
    *arguments: str,
    faults: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    forked: bool = True,
) -> Iterator[RunningJob]:
    """A running `holdfast run`; killed with all its nodes if the test ends first. `environment` comes on top."""
    command = ["run", str(spec), "--out", str(out), "--plain", *arguments]
    for fault in faults:
        command += ["--fault", fault]
    # What was measured on this machine before must not decide on layouts here.
    known = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(out / "cache"), **(environment or {})}
    log = out.with_name(f"{out.name}.log")
    log.unlink(missing_ok=True)
    process = start(command, log, environment=known, forked=forked)
    running = RunningJob(process, out, log)
    try:
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for node in running.nodes().values():
            for pid in (node["agent_pid"], *node["worker_pids"]):
                if pid and is_alive(pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def run_job(
    spec: Path,
    out: Path,
    *arguments: str,
    faults: Sequence[str] = (),
    timeout_s: float = GIVE_UP_S,
    environment: Mapping[str, str] | None = None,
    forked: bool = True,
) -> Ended:
    """`holdfast run` to its end."""
    with job(spec, out, *arguments, faults=faults, environment=environment, forked=forked) as running:
        return running.end(timeout_s)


def undisturbed(folder: Path, steps: int) -> Ended:
    """So many steps of the toy Program on one node that nothing happens to, in a new `folder`."""
    folder.mkdir()
    ended = run_job(toy_spec(folder, steps=steps), folder / "out", "--nodes", "1")
    assert ended.code == 0, ended.output
    return ended


def events_of(out: Path, kind: EventKind) -> list[dict[str, Any]]:
    """What was told so far with each event of that kind."""
    return [dict(event.fields) for event in RunFiles(out).read_events() if event.kind is kind]


def agents_of(running: RunningJob) -> dict[str, int]:
    """Their pids by node."""
    return {name: node["agent_pid"] for name, node in running.nodes().items()}


def kill_all(running: RunningJob) -> None:
    """SIGKILL for launcher, agents and workers at the same moment."""
    pids = [running.process.pid]
    for node in running.nodes().values():
        pids += [pid for pid in (node["agent_pid"], *node["worker_pids"]) if pid and is_alive(pid)]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Whether the pid is a process of ours that runs: no zombie, and no later process that got the number."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()  # a zombie has none
    except OSError:
        return False
    return b"holdfast" in command or SERVER.encode() in command


def wait_gone(pids: Collection[int]) -> None:
    wait_until(lambda: not any(map(is_alive, pids)), what=lambda: f"the end of {set(filter(is_alive, pids))}")


def children_of(pid: int) -> set[int]:
    """Processes that any of its threads started and that it has not waited for."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found |= set(map(int, (task / "children").read_text().split()))
    return found

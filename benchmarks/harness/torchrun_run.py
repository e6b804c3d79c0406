"""torchrun's elastic restart of peers/torchrun_ddp.py: agents of one worker each, a rendezvous nobody's death takes
with it, checkpoints on tmpfs."""

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch.distributed as dist

from benchmarks.harness.contenders import Commit, ProgramSource
from benchmarks.harness.lines import JsonLines
from benchmarks.harness.processes import REPOSITORY, Child, descendants, signal_group, signal_process, wait_for

_SCRIPT = REPOSITORY / "benchmarks" / "peers" / "torchrun_ddp.py"
# torchrun's own least values where they are shorter than its defaults (in brackets). All are whole seconds.
RENDEZVOUS = {
    "is_host": "0",  # the store is ours, so that any of the agents may be killed
    "join_timeout": "60",  # [600]
    "last_call_timeout": "1",  # [30] how long survivors wait for the one that will not come
    "close_timeout": "5",  # [30]
    "keep_alive_interval": "1",  # [5]
    "keep_alive_max_attempt": "2",  # [3]
}
# With the store that agents share by default, torch 2.13 keeps the addresses of workers that are gone, and restarted
# workers may wait for them in vain; each restart gets a fresh store with this.
ENVIRONMENT = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
MONITOR_INTERVAL_S = 0.05  # [0.1] how often an agent looks at its worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Incarnation:
    """One life of one worker."""

    resumed_step: int
    begun_s: float
    ranks: int
    commits: Sequence[Commit]


class TorchrunRun:
    """Use as a context manager."""

    name = "torchrun"

    def __init__(self, source: ProgramSource, agents: int, logs: Path) -> None:
        logs.mkdir(parents=True)
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._folder = Path(tempfile.mkdtemp(prefix="holdfast-torchrun-", dir="/dev/shm"))
        self._files: dict[Path, JsonLines] = {}
        command = [sys.executable, "-m", "torch.distributed.run", f"--nnodes=1:{agents}", "--nproc-per-node=1"]
        command += ["--max-restarts=10", f"--monitor-interval={MONITOR_INTERVAL_S}", "--local-addr=127.0.0.1"]
        command += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{self._store.port}", "--rdzv-id=bench"]
        command += ["--rdzv-conf=" + ",".join(f"{key}={value}" for key, value in RENDEZVOUS.items())]
        command += [str(_SCRIPT), "--program", source.to_json(), "--folder", str(self._folder)]
        self._agents = [Child(command, logs / f"agent-{index}.log", ENVIRONMENT) for index in range(agents)]
        self._killed: set[int] = set()

    def incarnations(self) -> Iterator[Incarnation]:
        for path in sorted(self._folder.glob("rank-*.jsonl")):
            lines = self._files.setdefault(path, JsonLines(path)).read()
            if lines:
                commits = [(line["step"], line["time_s"]) for line in lines[1:]]
                yield Incarnation(
                    resumed_step=lines[0]["resumed"],
                    begun_s=lines[0]["time_s"],
                    ranks=lines[0]["ranks"],
                    commits=commits,
                )

    def is_training(self, ranks: int, step: int) -> bool:
        """Whether a group of so many ranks has committed `step`."""
        return any(i.ranks == ranks and i.commits and i.commits[-1][0] >= step for i in self.incarnations())

    def wait_step(self, ranks: int, step: int, within_s: float = 120.0) -> None:
        wait_for(f"step {step} of torchrun", lambda: self.is_training(ranks, step), self.check, within_s)

    def kill_agent(self, index: int) -> None:
        """SIGKILL to one agent with its worker, as a node that is gone."""
        pid = self._agents[index].pid
        below = list(descendants(pid))
        self._killed.add(index)
        signal_group(pid, signal.SIGKILL)
        for process in below:  # torchrun gives its worker a process group of its own
            signal_process(process, signal.SIGKILL)

    def wait_resumed(self, after_s: float, steps: int, within_s: float) -> Incarnation:
        """Until workers that began after `after_s` have committed `steps` steps; the first of them to commit."""

        def resumed() -> list[Incarnation]:
            return [i for i in self.incarnations() if i.begun_s > after_s and len(i.commits) >= steps]

        wait_for("recovery of torchrun", lambda: bool(resumed()), self.check, within_s)
        return min(resumed(), key=lambda i: i.commits[0][1])

    def check(self) -> None:
        for index, agent in enumerate(self._agents):
            if index not in self._killed:
                agent.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for agent in self._agents:
            below = list(descendants(agent.pid))
            agent.close()
            for process in below:
                signal_process(process, signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)


def settings() -> dict[str, Any]:
    """What a result should say of how torchrun was set."""
    return {
        "rdzv_conf": dict(RENDEZVOUS),
        "environment": dict(ENVIRONMENT),
        "monitor_interval_s": MONITOR_INTERVAL_S,
        "rendezvous_store": "in the benchmark's process",
        "checkpoint": "torch.save of model, optimizer and schedule to /dev/shm at every step, by rank 0",
    }

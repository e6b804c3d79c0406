"""Machines for scripts: a store, and an agent for each machine that keeps what its scripts save, all real processes."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.ram import HeldCopy
from harness.waiting import wait_until
from holdfast_checkpoint.agent_messages import Look, decode_answer, encode, receive, script_of, send
from holdfast_checkpoint.errors import CheckpointError
from holdfast_checkpoint.header import parse

SECRET = "5a17" * 16
WITHIN_S = 120.0
_LEASE_S = 2.0


@dataclass(slots=True, kw_only=True)
class Keepers:
    """`start` begins a machine; its name is its failure domain."""

    folder: Path
    store: str
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def socket_of(self, machine: str) -> Path:
        return self.folder / f"{machine}.sock"

    def log_of(self, machine: str) -> list[dict[str, Any]]:
        lines = (self.folder / f"{machine}.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def pid(self, machine: str) -> int:
        return self._processes[machine].pid

    def start(self, *machines: str, secret: str = SECRET) -> None:
        for machine in machines:
            self._processes[machine] = self._begin(machine, secret)
        for machine in machines:
            wait_for(lambda machine=machine: self._is_ready(machine), f"the agent of {machine}")  # type: ignore[misc]

    def run(self, machine: str, *, secret: str) -> tuple[int, str]:
        """An agent that is expected to end: its exit status and what it said."""
        process = self._begin(machine, secret)
        status = process.wait(WITHIN_S)
        return status, (self.folder / f"{machine}.log").read_text()

    def kill(self, *machines: str) -> None:
        """As a machine that loses its power."""
        for machine in machines:
            self._processes[machine].send_signal(signal.SIGKILL)
            self._processes[machine].wait(WITHIN_S)

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait(WITHIN_S)

    def saves(self, machine: str, url: str) -> list[tuple[int, bool]]:
        """(step, whether it is safe) of what that machine's agent tells a script that saves."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(WITHIN_S)
            connection.connect(str(self.socket_of(machine)))
            send(connection, encode(Look(script=script_of(url))), None)
            answer: Any = decode_answer(receive(connection)[0])
        return [(save.step, save.is_safe) for save in answer.saves]

    def copies(self, machine: str) -> list[HeldCopy]:
        """Blobs in the memory of its agent (manifests are none), each once, however often it is open."""
        found = {}
        for fd in Path(f"/proc/{self.pid(machine)}/fd").iterdir():
            try:
                if os.readlink(fd).startswith("/memfd:holdfast"):
                    header = parse(fd.read_bytes())
                    step = int(header.metadata["step"])
                    found[fd.stat().st_ino] = HeldCopy(path=fd, layer="", step=step, generation=0, size=header.size)
            except (OSError, CheckpointError):
                continue
        return list(found.values())

    def _begin(self, machine: str, secret: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{machine}.log").open("ab") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "holdfast.cli.main", "keep", "--name", "runs", "--store", self.store),
                    *("--node", machine, "--address", "127.0.0.1", "--socket", str(self.socket_of(machine))),
                    *("--lease", str(_LEASE_S), "--json"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(secret),
            )

    def _is_ready(self, machine: str) -> bool:
        process = self._processes[machine]
        assert process.poll() is None, (self.folder / f"{machine}.log").read_text()
        return any(line.get("event") == "keeper.ready" and line["pid"] == process.pid for line in self.log_of(machine))


def environment(secret: str = SECRET) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    return {**kept, "HOLDFAST_SECRET": secret}


def wait_for(condition: Callable[[], object], what: str) -> None:
    wait_until(condition, WITHIN_S, what=lambda: what)


@contextmanager
def keepers(folder: Path) -> Iterator[Keepers]:
    """With a store of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    store = subprocess.Popen(
        [sys.executable, "-m", "holdfast.cli.main", "store", "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    assert store.stdout is not None
    made = Keepers(folder=folder, store=json.loads(store.stdout.readline())["store"])
    try:
        yield made
    finally:
        made.close()
        store.kill()
        store.wait(WITHIN_S)
        store.stdout.close()

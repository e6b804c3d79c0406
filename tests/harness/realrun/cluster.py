"""A cluster on this machine for tests: a store, agents that were started by hand, and the commands about their job."""

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from harness.realrun.commands import Process, start
from harness.realrun.jobs import GIVE_UP_S, RunningJob
from harness.waiting import wait_until
from holdfast.cli.job_status import read_status
from holdfast.cli.target import Target
from holdfast.errors import JobFailedError
from holdfast.stores.address import StoreAccess, parse_store


class Cluster:
    """Everything is started with the same secret, from its file."""

    def __init__(self, folder: Path, store: str, environment: Mapping[str, str], *, forked: bool = True) -> None:
        """`forked`: see harness.realrun.commands."""
        self.folder, self.store, self.forked = folder, store, forked
        self.environment = dict(environment)
        self.agents: dict[str, Process] = {}

    @property
    def secret(self) -> bytes:
        return Path(self.environment["HOLDFAST_SECRET_FILE"]).read_bytes()

    def command(self, *arguments: str, code: int | None = 0, timeout_s: float = GIVE_UP_S) -> str:
        """What `holdfast` prints, errors too where one is expected."""
        with tempfile.TemporaryDirectory() as folder:
            output, errors = Path(folder) / "output", Path(folder) / "errors"
            ended = start(arguments, output, errors=errors, environment=self.environment, forked=self.forked)
            try:
                status = ended.wait(timeout_s)
            finally:
                ended.kill()
            told, trouble = output.read_text(), errors.read_text()
        assert code is None or status == code, (arguments, status, told, trouble)
        return told if status == 0 else told + trouble

    def submit(self, spec: Path, out: Path, *arguments: str) -> dict[str, Any]:
        told = self.command("submit", str(spec), "--store", self.store, "--out", str(out), "--json", *arguments)
        submitted: dict[str, Any] = json.loads(told)
        return submitted

    @contextmanager
    def followed(self, spec: Path, out: Path) -> Iterator[RunningJob]:
        """The job of `holdfast submit --wait`, which leaves what a run leaves."""
        log = self.folder / "follower.log"
        command = ["submit", str(spec), "--store", self.store, "--out", str(out), "--wait", "--json"]
        follower = start(command, log, environment=self.environment, forked=self.forked)
        try:
            yield RunningJob(follower, out, log)
        finally:
            follower.kill()
            follower.wait()

    def about(self, command: str, *arguments: str, job: str = "toy") -> Any:
        """A command about the job, its answer parsed."""
        return json.loads(self.command(command, *arguments, "--job", job, "--store", self.store, "--json"))

    def status(self, job: str = "toy") -> dict[str, Any]:
        """What `holdfast status` tells, without its process: polls must not take the time that the agents need."""
        target = Target(job=job, address=parse_store(self.store), access=StoreAccess(secret=self.secret))
        deadline_s = time.monotonic() + GIVE_UP_S
        while True:
            try:
                return asyncio.run(read_status(target)).as_json()
            except JobFailedError:  # a command has three seconds, in which a busy machine may stand still
                if time.monotonic() > deadline_s:
                    raise

    def start(self, node: str, *arguments: str, job: str = "toy") -> Process:
        """An agent in a process group of its own, which logs to a file."""
        command = ["agent", "--job", job, "--store", self.store, "--json", "--node", node, *arguments]
        if "--address" not in arguments:
            command += ["--address", "127.0.0.1"]
        number = len(self.agents)
        process = start(command, self.log(f"{node}.{number}"), environment=self.environment, forked=self.forked)
        self.agents[f"{node}.{number}"] = process
        return process

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-4000:]}" for path in sorted(self.folder.glob("*.log")))

    def wait_for(self, condition: Callable[[], object], what: str, timeout_s: float = GIVE_UP_S) -> None:
        wait_until(condition, timeout_s, what=lambda: f"{what}\n{self.logs()}", every_s=0.1)

    def wait_logged(self, name: str, event: str, timeout_s: float = GIVE_UP_S) -> None:
        text = f'"event": "{event}"'
        self.wait_for(lambda: text in self.log(name).read_text(), f"logged {event} by {name}", timeout_s)

    def kill(self) -> None:
        """All agents with all their workers."""
        for process in self.agents.values():
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for process in self.agents.values():
            process.wait()


@contextmanager
def cluster(folder: Path, store: str | None = None, *, forked: bool = True) -> Iterator[Cluster]:
    """With a store of its own unless an address is given; everything is gone at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    secret = folder / "secret"
    secret.touch(mode=0o600)
    secret.write_text(secrets.token_hex(32))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    environment = {**kept, "OMP_NUM_THREADS": "1", "HOLDFAST_SECRET_FILE": str(secret)}
    with ExitStack() as held:
        address = store or held.enter_context(_served(folder, environment))
        made = Cluster(folder, address, environment, forked=forked)
        try:
            yield made
        finally:
            made.kill()


@contextmanager
def _served(folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """The address of an embedded store in a process of its own."""
    command = [sys.executable, "-m", "holdfast.cli.main", "store", "--json"]
    with (folder / "store.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log)
    assert server.stdout is not None
    with server:
        try:
            yield json.loads(server.stdout.readline())["store"]
        finally:
            server.kill()

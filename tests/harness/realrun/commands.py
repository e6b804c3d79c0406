"""Starts `holdfast` as a process: forked from one that has imported torch already, which would take seconds each time.

A test of how processes start, or of what others can see of them, asks for one that is not forked.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

from harness.realrun.command_order import CommandOrder
from holdfast.agent.fork_server import Command
from holdfast.model.wire import encode

SERVER = "harness.realrun.fork_server"
_NETWORK = "/proc/thread-self/ns/net"
_START_S = 120.0


class Process(Protocol):
    """What of subprocess.Popen tests use. Output goes to a file."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...


def start(
    arguments: Sequence[str],
    output: Path,
    *,
    errors: Path | None = None,
    environment: Mapping[str, str] | None = None,
    forked: bool = True,
) -> Process:
    """`holdfast` with these arguments, in a process group of its own. `errors`: with the output by default.
    `environment`: all of it; this process's by default."""
    environment = os.environ if environment is None else environment
    output.touch()
    if forked:
        return _server().start(arguments, output, errors or output, environment)
    with output.open("ab") as written, (errors or output).open("ab") as told:
        return subprocess.Popen(
            [sys.executable, "-m", "holdfast.cli.main", *arguments],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=told,
            start_new_session=True,
        )


class Forked:
    """A process that a fork server forked, and tells of."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments
        self.pid = 0
        self.returncode: int | None = None
        self.trouble = ""  # why it could not be forked
        self.born, self.ended = threading.Event(), threading.Event()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if not self.ended.wait(timeout):
            assert timeout is not None
            raise subprocess.TimeoutExpired(list(self._arguments), timeout)
        assert self.returncode is not None
        return self.returncode

    def end(self, status: int) -> None:
        self.returncode = status
        self.ended.set()

    def send_signal(self, sig: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Server:
    """One a test process; it ends, and what it forked with it, when this process does."""

    def __init__(self) -> None:
        tests = str(Path(__file__).parents[2])
        paths = [tests, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
        self._running = Command(module=SERVER, environment=environment, own_session=True).start()
        self._processes: list[Forked] = []
        threading.Thread(target=self._listen, name="fork-server", daemon=True).start()

    def start(self, arguments: Sequence[str], output: Path, errors: Path, environment: Mapping[str, str]) -> Forked:
        process, server = Forked(arguments), self._running.process.pid
        is_here = os.readlink(f"/proc/{server}/ns/net") == os.readlink(_NETWORK)
        self._processes.append(process)
        order = CommandOrder(
            number=len(self._processes) - 1,
            arguments=tuple(arguments),
            environment=environment,
            folder=str(Path.cwd()),
            network="" if is_here else f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net",
            output=str(output.absolute()),
            errors=str(errors.absolute()),
        )
        self._running.connection.sendall(encode(order) + b"\n")
        assert process.born.wait(_START_S), "the fork server does not answer"
        assert not process.trouble, process.trouble
        self._wait_inside(process)
        return process

    def _wait_inside(self, process: Forked) -> None:
        """Until it is where this thread is, which may go elsewhere afterwards."""
        here, deadline_s = os.readlink(_NETWORK), time.monotonic() + _START_S
        while process.returncode is None:
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{process.pid}/ns/net") == here:
                    return
            assert time.monotonic() < deadline_s, "it does not enter the network"
            time.sleep(0.001)  # polling the kernel; the deadline bounds it

    def _listen(self) -> None:
        living: dict[int, Forked] = {}
        with self._running.connection.makefile("rb") as events:
            for line in events:
                match json.loads(line):
                    case {"spawned": int(pid), "number": int(number)}:
                        living[pid] = self._processes[number]
                        living[pid].pid = pid
                        living[pid].born.set()
                    case {"exited": int(pid), "status": int(status)}:
                        living.pop(pid).end(status)
                    case {"not_forked": int(number), "error": str(error)}:
                        self._processes[number].trouble = error
                        self._processes[number].born.set()
        for left in living.values():  # with it, all that it forked
            left.end(-signal.SIGKILL)


@cache
def _server() -> _Server:
    return _Server()

"""Real servers that tests start: killed, frozen and started again, each with its log."""

import os
import random
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from harness.waiting import wait_until

_START_WITHIN_S = 90.0


class ServerProcess:
    """One server, launched by whoever knows its command line; after `kill` it may be launched again."""

    def __init__(self, name: str, log: Path) -> None:
        self.name, self.log = name, log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_started(self) -> bool:
        return self._process is not None

    def kill(self) -> None:
        """SIGKILL, and only back when it is gone. A server that does not run is no error."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """It keeps its connections and answers nothing; only back when the last of its threads stands still."""
        process = self._started()
        process.send_signal(signal.SIGSTOP)
        # WNOWAIT: that it ended, if it did, stays for Popen to find.
        end = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert end is not None
        assert end.si_code == os.CLD_STOPPED, f"{self.name} ended:\n{self._last_words()}"

    def thaw(self) -> None:
        self._started().send_signal(signal.SIGCONT)

    def _launch(self, command: Sequence[str]) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _wait_until(self, serves: Callable[[], bool]) -> None:
        def serves_or_lives() -> bool:
            if serves():
                return True
            ended = self._started().poll()
            assert ended is None, f"{self.name} ended with {ended}:\n{self._last_words()}"
            return False

        wait_until(serves_or_lives, _START_WITHIN_S, what=lambda: f"{self.name} serves:\n{self._last_words()}")

    def _started(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} was not started"
        return self._process

    def _last_words(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


# By `free_ports` in this process: their servers may not have bound them yet, or may be down for a moment.
_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Below those that the kernel gives to outgoing connections: such a one could take the port of a dead server."""
    with ExitStack() as sockets:
        ports: list[int] = []
        for port in random.sample(sorted(set(range(10_000, 32_000)) - _given), k=1_000):
            if len(ports) == count:
                _given.update(ports)
                return ports
            with suppress(OSError):
                sockets.enter_context(socket.socket()).bind(("127.0.0.1", port))
                ports.append(port)
    raise AssertionError(f"only {len(ports)} free ports; {count} are needed")

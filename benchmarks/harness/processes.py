"""Child processes of a benchmark: each in a process group of its own, ended whole, its output kept in a file."""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

REPOSITORY = Path(__file__).resolve().parents[2]
POLL_S = 0.01
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class BenchmarkError(Exception):
    """A contender did not do what it should; nothing was measured."""


def environment() -> dict[str, str]:
    """One thread a process, loopback only: alike for Holdfast and its peers."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(REPOSITORY)}


class Child:
    """One process with what it starts; `close` leaves nothing of its process group behind."""

    def __init__(self, command: Sequence[str], log: Path, extra: Mapping[str, str] | None = None) -> None:
        self.command, self._log = tuple(command), log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_die_with_parent,
                env=environment() | dict(extra or {}),
            )

    @property
    def pid(self) -> int:
        """Also of its process group."""
        return self._process.pid

    def check(self) -> None:
        """Raises: BenchmarkError: it ended with an error."""
        if self._process.poll():
            tail = self._log.read_text(errors="replace")[-3000:]
            raise BenchmarkError(f"{' '.join(self.command)}: ended with {self._process.returncode}\n{tail}")

    def ask_to_end(self, number: signal.Signals, within_s: float) -> bool:
        """Signal the process alone; whether it ended in time."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(within_s)
        return self._process.returncode is not None

    def close(self) -> None:
        signal_group(self.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _die_with_parent() -> None:
    """Linux: a benchmark that is killed leaves nothing that trains on."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def signal_process(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def descendants(pid: int) -> Iterator[int]:
    """All processes below `pid`, whatever their process groups."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in path.read_text().split():
                yield int(child)
                yield from descendants(int(child))


def wait_for(what: str, condition: Callable[[], bool], check: Callable[[], None], within_s: float) -> None:
    """Poll `condition`; `check` raises if there is nothing left to wait for.

    Raises:
        BenchmarkError: it did not come true in time.
    """
    deadline = time.monotonic() + within_s
    while not condition():
        check()
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{what} did not happen within {within_s:.0f} s")
        time.sleep(POLL_S)

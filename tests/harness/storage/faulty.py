"""A file system that fails as storages do, by a seed: `faulty://path` lies in another one, `target` of its options.

Options (from the caller, or in other processes from the environment, see `faulty_environment`):
  target   protocol of the one that is wrapped (default: file)
  seed     decides what fails; not the time, nor the order in which threads come
  rate     of calls that fail, 0 to 1
  kinds    which faults, a comma between them (default: all); `Fault` says what they are
  slow_s   how long a slow call takes longer
  gate     while this file exists calls hang, or if it says "busy" are refused: for those who time it themselves
  state    a `State` of the caller's, else that of the process

What happens to a call depends on the seed, the operation, its path, and how often this process did that before. So a
call that is repeated often enough gets through, unless the rate is 1.
"""

import errno
import hashlib
import os
import threading
import time
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Any

import fsspec
from fsspec import AbstractFileSystem

_EXPIRED_CALLS = 3  # how many calls fail once credentials have expired


class Fault(StrEnum):
    ERROR = "error"  # a broken connection, nothing done
    BUSY = "busy"  # 503 Slow Down, nothing done
    EXPIRED = "expired"  # this and the next calls are refused, nothing done
    SLOW = "slow"
    LOST = "lost"  # done, and then a broken connection
    TORN = "torn"  # half of what is written stays, and then a broken connection
    SHORT = "short"  # half of what is written stays, and no error
    STALE = "stale"  # a listing as it was the last time, or a read that ends too early
    FLIPPED = "flipped"  # a read with one bit changed on its way


_WRITES = frozenset({"pipe_file", "rm_file", "makedirs"})
_ONLY_FOR = {
    Fault.TORN: {"pipe_file"},
    Fault.SHORT: {"pipe_file"},
    Fault.LOST: _WRITES,
    Fault.STALE: {"find", "cat_file"},
    Fault.FLIPPED: {"cat_file"},
}


class ServiceError(OSError):
    """Carries the service's own word, where the clients of S3 have it."""

    def __init__(self, code: str) -> None:
        super().__init__(errno.EIO, f"injected: {code}")
        self.response = {"Error": {"Code": code}}


class State:
    """What file systems of one kind share: how often each call was made, what was injected. `SHARED`: of a process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls: Counter[tuple[str, str]] = Counter()
        self.expired_calls = 0
        self.listings: dict[str, dict[str, Any]] = {}
        self.injected: Counter[Fault] = Counter()


SHARED = State()


class FaultyFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec is not typed
    protocol = "faulty"
    cachable = False
    root_marker = ""

    def __init__(
        self,
        *args: Any,
        target: str = "file",
        seed: int = 0,
        rate: float = 0.1,
        kinds: str = ",".join(Fault),
        slow_s: float = 0.01,
        gate: str = "",
        state: State = SHARED,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._target = fsspec.filesystem(target)
        self._seed, self._rate, self._slow_s = int(seed), float(rate), float(slow_s)
        self._gate = Path(gate) if gate else None
        self._kinds = tuple(Fault(kind) for kind in kinds.split(","))
        # Not its own: who meets expired credentials opens another one, and goes on where this one was.
        self.state = state

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = super()._strip_protocol(path)
        return stripped

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        fault = self._before("pipe_file", path)
        self._target.makedirs(path.rpartition("/")[0], exist_ok=True)
        stored = value[: len(value) // 2] if fault in {Fault.TORN, Fault.SHORT} else value
        self._target.pipe_file(path, stored, mode=mode)
        self._after(fault)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        fault = self._before("cat_file", path)
        data: bytes = self._target.cat_file(path, start=start, end=end)
        if fault is Fault.STALE:
            return data[: len(data) // 2]
        if fault is Fault.FLIPPED and data:
            at = self._number("flip", path, len(data)) % len(data)
            return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        return data

    def find(self, path: str, detail: bool = False, **options: Any) -> Any:
        fault = self._before("find", path)
        found = self._target.find(path, detail=True)
        with self.state.lock:
            earlier = self.state.listings.get(path, {})
            self.state.listings[path] = found
        # Never known before: as if nothing of it were there yet.
        shown = earlier if fault is Fault.STALE else found
        return shown if detail else sorted(shown)

    def info(self, path: str, **options: Any) -> Any:
        self._before("info", path)
        return self._target.info(path)

    def exists(self, path: str, **options: Any) -> bool:
        self._before("exists", path)
        return bool(self._target.exists(path))

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        self._before("ls", path)
        return self._target.ls(path, detail=detail)

    def rm_file(self, path: str) -> None:
        fault = self._before("rm_file", path)
        self._target.rm_file(path)
        self._after(fault)

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        self._target.rm(path, recursive=recursive)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self._target.makedirs(path, exist_ok=exist_ok)

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def _before(self, operation: str, path: str) -> Fault | None:
        """What goes wrong later in this call, if anything does. Raises what goes wrong at once."""
        self._pass_gate()
        with self.state.lock:
            self.state.calls[operation, path] += 1
            fault = self._drawn(operation, path, self.state.calls[operation, path])
            if self.state.expired_calls:
                self.state.expired_calls -= 1
                raise ServiceError("ExpiredToken")
            if fault is not None:
                self.state.injected[fault] += 1
            if fault is Fault.EXPIRED:
                self.state.expired_calls = _EXPIRED_CALLS - 1
        if fault is Fault.SLOW:
            time.sleep(self._slow_s)
        if fault is Fault.ERROR:
            raise ConnectionResetError("injected: error")
        if fault is Fault.BUSY:
            raise ServiceError("SlowDown")
        if fault is Fault.EXPIRED:
            raise ServiceError("ExpiredToken")
        return fault

    def _pass_gate(self) -> None:
        while self._gate is not None:
            try:
                wanted = self._gate.read_text()
            except FileNotFoundError:
                return
            if wanted == "busy":
                raise ServiceError("SlowDown")
            time.sleep(0.02)  # as long as the test wants it to hang

    def _after(self, fault: Fault | None) -> None:
        if fault in {Fault.LOST, Fault.TORN}:
            raise ConnectionResetError(f"injected: {fault}")

    def _drawn(self, operation: str, path: str, count: int) -> Fault | None:
        if self._number("rate", operation, path, count) / 2**64 >= self._rate:
            return None
        possible = [kind for kind in self._kinds if operation in _ONLY_FOR.get(kind, {operation})]
        return possible[self._number("kind", operation, path, count) % len(possible)] if possible else None

    def _number(self, *what: object) -> int:
        text = repr((self._seed, *what)).encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def register() -> None:
    """In this process."""
    fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)


def faulty_environment(folder: Path, **options: object) -> dict[str, str]:
    """With these variables every Python process knows `faulty://` and these `options` of it; `folder` is written to."""
    known = folder / "holdfast_faulty-0.dist-info"
    known.mkdir(parents=True, exist_ok=True)
    (known / "METADATA").write_text("Metadata-Version: 2.1\nName: holdfast-faulty\nVersion: 0\n")
    (known / "entry_points.txt").write_text(f"[fsspec.specs]\nfaulty = {__name__}:{FaultyFileSystem.__name__}\n")
    tests = Path(__file__).resolve().parents[2]
    paths = [str(folder), str(tests), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {f"FSSPEC_FAULTY_{name.upper()}": str(value) for name, value in options.items()}
    return {"PYTHONPATH": os.pathsep.join(paths), **settings}

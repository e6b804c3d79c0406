"""`holdfast agent` and `holdfast store`: what runs on a machine of its own."""

import asyncio
import contextlib
import ipaddress
import json
import logging
import os
import re
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

from holdfast.agent.credentials import Credentials
from holdfast.agent.fork_server import ForkedChild, RunningServer
from holdfast.agent.http import Listening
from holdfast.agent.main import AgentOptions, run_agent
from holdfast.agent.self_submission import SelfSubmission
from holdfast.agent.settings import node_id
from holdfast.agent.tls import TlsFiles
from holdfast.cli.access import read_access, read_secret
from holdfast.cli.ending import tell_end
from holdfast.cli.final_place import open_place
from holdfast.errors import UserError
from holdfast.model.ids import NodeId
from holdfast.model.records import Result
from holdfast.stores.address import StoreAccess, join_endpoint, parse_store
from holdfast.stores.embedded import EmbeddedServer
from holdfast.telemetry.logs import set_up_logging

log = logging.getLogger(__name__)
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_JOB = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentArguments:
    """As the command line has them."""

    job: str
    store: str
    node: str
    address: str
    listen: str | None = None
    domain: str | None = None
    slots: int | None = None
    submit: Path | None = None
    base: Path | None = None
    out: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    ram: Path | None = None
    health: str | None = None
    open_metrics: bool = False
    as_json: bool = False
    zygote: str | None = None  # PID:FD of one that was forked together with this process


def serve_agent(arguments: AgentArguments) -> None:
    """Until the node has left or the job is over. Raises: UserError: wrong input."""
    secret = read_secret()
    host, listening = listening_at(arguments.address, arguments.listen, open_metrics=arguments.open_metrics)
    node = check_node(arguments.node)
    access = read_access(secret)
    options = AgentOptions(
        job=check_job(arguments.job),
        address=parse_store(arguments.store),
        access=access,
        node=node,
        host=host,
        listening=listening,
        domain=arguments.domain or node,
        secret=secret,
        slots=arguments.slots,
        tls=tls_files(arguments.tls_cert, arguments.tls_key, arguments.tls_ca),
        base=arguments.base,
        out=open_place(arguments.out).url if arguments.out else None,
        ram=arguments.ram,
        submission=_submission(arguments, secret, access),
        health=_health_address(arguments.health),
        zygote=_zygote(arguments.zygote),
    )
    set_up_logging(as_json=arguments.as_json or _wants_json(), job=options.job, node=node)
    outcome = run_agent(options)
    if outcome is not None and outcome.result is Result.FAILED:
        traceback = outcome.failure.traceback if outcome.failure is not None else ""
        tell_end(f"the job {options.job} failed: {outcome.reason}\n{traceback}")


def _wants_json() -> bool:
    """Raises: UserError: HOLDFAST_LOG is neither."""
    wanted = os.environ.get("HOLDFAST_LOG") or "plain"
    if wanted not in ("json", "plain"):
        raise UserError(f"HOLDFAST_LOG: {wanted!r} given; should be json or plain")
    return wanted == "json"


def _submission(arguments: AgentArguments, secret: bytes, access: StoreAccess) -> SelfSubmission | None:
    if arguments.submit is None:
        return None
    taken = {"HOLDFAST_SECRET": secret.decode(errors="surrogateescape")}
    if access.user is not None:
        taken["HOLDFAST_STORE_USER"] = access.user
    if access.password is not None:
        taken["HOLDFAST_STORE_PASSWORD"] = access.password
    return SelfSubmission(
        spec=arguments.submit.absolute(),
        base=(arguments.base or Path.cwd()).absolute(),
        out=arguments.out or "",
        store=arguments.store,
        # Of a secret in a file the other process knows the file.
        secrets={name: value for name, value in taken.items() if not os.environ.get(f"{name}_FILE")},
    )


def _zygote(text: str | None) -> RunningServer | None:
    if text is None:
        return None
    pid, descriptor = map(int, text.split(":"))
    return RunningServer(ForkedChild(pid), socket.socket(fileno=descriptor))


def _health_address(text: str | None) -> tuple[str, int] | None:
    """Raises: UserError: it is no address with a port."""
    if text is None:
        return None
    host, port = parse_address("--health", text)
    if port == 0:
        raise UserError(f"--health {text!r}: has no port; should be HOST:PORT, such as 0.0.0.0:4711")
    return host, port


def serve_store(address: str, *, as_json: bool) -> None:
    """An embedded store in this process's memory, until SIGTERM or Ctrl-C. Raises: UserError: it cannot be bound."""
    host, port = parse_address("--address", address)
    set_up_logging(as_json=as_json)
    asyncio.run(_serve_store(host, port, read_secret(), as_json=as_json))


async def _serve_store(host: str, port: int, secret: bytes, *, as_json: bool) -> None:
    server = EmbeddedServer(host=host, port=port, secret=secret)
    try:
        await server.start()
    except OSError as error:
        raise UserError(f"--address {host}: port {port} cannot be bound: {error}") from error
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    where = f"embedded://{join_endpoint(server.host, server.port)}"
    print(json.dumps({"store": where, "pid": os.getpid()}) if as_json else f"--store {where}", flush=True)
    try:
        await ended.wait()
    finally:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.close(), 5)


def print_read_token(job: str) -> None:
    """The bearer token that opens /status and /metrics of the job's agents, and nothing else."""
    print(Credentials(read_secret(), check_job(job)).read_token)


def check_job(name: str, option: str = "--job") -> str:
    """Raises: UserError: no job can have that name, and nothing that is named like one."""
    if not _JOB.fullmatch(name):
        what = "the name in the job's spec: " if option == "--job" else ""
        raise UserError(f"{option} {name!r}: should be {what}a-z, 0-9 and '-', at most 63")
    return name


def check_node(name: str) -> NodeId:
    """Raises: UserError: no node can have that name."""
    try:
        return node_id(name)
    except ValueError as error:
        raise UserError(f"--node: {error}") from error


def listening_at(address: str, listen: str | None, *, open_metrics: bool) -> tuple[str, Listening]:
    """At which address peers reach an agent, and where it listens.

    Raises:
        UserError: --address or --listen is none.
    """
    host, port = parse_address("--address", address)
    if _is_wildcard(host):
        raise UserError(f"--address {host}: peers cannot reach that; give this machine's address, and --listen {host}")
    listen = listen or host
    if ":" in listen and not _is_address(listen):
        raise UserError(f"--listen {listen!r}: should be a host or address; the port goes with --address")
    return host, Listening(host=listen, port=port, open_metrics=open_metrics)


def parse_address(option: str, text: str) -> tuple[str, int]:
    """HOST, HOST:PORT, an IPv6 address, or [IPV6]:PORT; port 0 where none is given.

    Raises:
        UserError: it is none of these.
    """
    if _is_address(text):
        return text, 0
    if text.endswith("]"):
        host, colon, port = text, "", ""
    else:
        before, colon, after = text.rpartition(":")
        host, port = (before, after) if colon else (text, "")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_host = _is_address(bare) if bare != host else bool(_HOST.fullmatch(host))
    is_port = not colon or (port.isascii() and port.isdigit() and int(port) <= 65535)
    if not is_host or not is_port:
        raise UserError(f"{option} {text!r}: should be HOST or HOST:PORT, an IPv6 address with a port as [::1]:4711")
    return bare, int(port) if colon else 0


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_wildcard(host: str) -> bool:
    return _is_address(host) and ipaddress.ip_address(host).is_unspecified


def tls_files(cert: Path | None, key: Path | None, ca: Path | None) -> TlsFiles | None:
    """None if none is given. Raises: UserError: some are missing."""
    files = {"--tls-cert": cert, "--tls-key": key, "--tls-ca": ca}
    missing = [option for option, path in files.items() if path is None]
    if len(missing) == len(files):
        return None
    if cert is None or key is None or ca is None:
        raise UserError(f"{missing[0]}: missing; TLS between agents needs {', '.join(files)}")
    return TlsFiles(certificate=cert, key=key, authority=ca)

"""What an agent is started with: addresses that can be reached, names that fit, files that are there."""

from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.cli.serving import parse_address
from holdfast.errors import UserError

Holdfast = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.1", "10.0.0.1", 0),
        ("10.0.0.1:4711", "10.0.0.1", 4711),
        ("node-1.cluster", "node-1.cluster", 0),
        ("node-1.cluster:80", "node-1.cluster", 80),
        ("::1", "::1", 0),
        ("[fe80::2]", "fe80::2", 0),
        ("[::1]:4711", "::1", 4711),
    ],
)
def test_an_address_is_a_host_and_maybe_a_port(text: str, host: str, port: int) -> None:
    assert parse_address("--address", text) == (host, port)


@pytest.mark.parametrize("text", ["", ":80", "a:b", "a:70000", "[1.2.3]:4", "a b", "a:", "[::1", "http://a", "a:-1"])
def test_anything_else_is_refused_with_what_would_be_right(text: str) -> None:
    with pytest.raises(UserError, match="should be HOST or HOST:PORT"):
        parse_address("--address", text)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--address", "0.0.0.0"], "give this machine's address, and --listen 0.0.0.0"),
        (["--node", "Node 1"], "--node: node 'Node 1'"),
        (["--job", "A/b"], "--job 'A/b'"),
        (["--store", "http://x"], "scheme 'http' is unknown"),
        (["--listen", "0.0.0.0:80"], "the port goes with --address"),
        (["--tls-cert", "cert.pem"], "--tls-key: missing"),
        (["--tls-cert", "a", "--tls-key", "b"], "--tls-ca: missing"),
    ],
)
def test_an_agent_is_refused_before_it_speaks_to_anyone(
    holdfast: Holdfast, monkeypatch: pytest.MonkeyPatch, arguments: list[str], complaint: str
) -> None:
    monkeypatch.setenv("HOLDFAST_SECRET", "a secret of some length")
    given = {"--job": "j", "--store": "127.0.0.1:1", "--node": "n", "--address": "127.0.0.1"}
    given |= dict(zip(arguments[::2], arguments[1::2], strict=True))

    code, _, error = holdfast("agent", *[word for pair in given.items() for word in pair])

    assert code == 2
    assert complaint in error


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--name", "A/b"], "--name 'A/b': should be a-z, 0-9 and '-', at most 63"),
        (["--address", "::"], "give this machine's address, and --listen ::"),
        (["--node", "Node 1"], "--node: node 'Node 1'"),
        (["--bandwidth", "fast"], "--bandwidth fast: should be bytes a second"),
        (["--socket", "/none/s"], "--socket /none/s: No such file"),
        (["--copies", "-1"], "Invalid value for '--copies'"),
        (["--tls-cert", "cert.pem"], "--tls-key: missing"),
    ],
)
def test_an_agent_that_keeps_is_refused_before_it_speaks_to_anyone(
    holdfast: Holdfast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    monkeypatch.setenv("HOLDFAST_SECRET", "a secret of some length")
    given = {"--name": "j", "--store": "127.0.0.1:1", "--node": "n", "--address": "127.0.0.1"}
    given |= {"--socket": str(tmp_path / "s")} | dict(zip(arguments[::2], arguments[1::2], strict=True))

    code, _, error = holdfast("keep", *[word for pair in given.items() for word in pair])

    assert code == 2
    assert complaint in error


def test_an_agent_without_a_secret_is_refused(holdfast: Holdfast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOLDFAST_SECRET", raising=False)

    code, _, error = holdfast("agent", "--job", "j", "--store", "127.0.0.1:1", "--node", "n", "--address", "127.0.0.1")

    assert code == 2
    assert "HOLDFAST_SECRET, HOLDFAST_SECRET_FILE: neither is set" in error


@pytest.mark.parametrize("command", ["status", "stop", "events"])
def test_a_command_wants_a_folder_or_a_job_with_its_store(
    holdfast: Holdfast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    for name in ("HOLDFAST_JOB", "HOLDFAST_STORE"):
        monkeypatch.delenv(name, raising=False)

    assert "give the folder of a run, or --job with --store" in holdfast(command)[2]
    assert "--store (or HOLDFAST_STORE): missing" in holdfast(command, "--job", "j")[2]
    assert "not both" in holdfast(command, tmp_path, "--job", "j", "--store", "127.0.0.1:1")[2]

"""Arguments that several commands take, and how they are read."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.errors import UserError

SECRETS = (
    "The job's secret comes from HOLDFAST_SECRET or the file HOLDFAST_SECRET_FILE (mode 0600), etcd's user from "
    "HOLDFAST_STORE_USER with HOLDFAST_STORE_PASSWORD (each also as ..._FILE), its PEM files from "
    "HOLDFAST_STORE_CA, HOLDFAST_STORE_CERT and HOLDFAST_STORE_KEY, or from the folder HOLDFAST_STORE_TLS."
)
Spec = Annotated[Path, typer.Argument(metavar="SPEC", help="The job spec, a YAML file.", show_default=False)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Set a field of the spec, such as program.params.width=128."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]

# Of agents, of a job or of scripts.
StoreUrl = Annotated[str, typer.Option(metavar="URL", envvar="HOLDFAST_STORE", help="As for submit.")]
Address = Annotated[
    str,
    typer.Option(
        metavar="HOST[:PORT]",
        envvar="HOLDFAST_ADDRESS",
        help="At which other machines reach this one, and what it listens at.",
    ),
]
TlsCertificate = Annotated[
    Path | None, typer.Option(envvar="HOLDFAST_TLS_CERT", help="This agent's certificate; TLS between all agents.")
]
TlsKey = Annotated[Path | None, typer.Option(envvar="HOLDFAST_TLS_KEY", help="Its key.")]
TlsAuthority = Annotated[
    Path | None, typer.Option(envvar="HOLDFAST_TLS_CA", help="Who vouches for the agents' certificates.")
]
LogJson = Annotated[bool, typer.Option("--json", help="Log lines of JSON.")]


def assignments(texts: list[str]) -> dict[str, Any]:
    """`path=value`, the value read as JSON where it is that, else as YAML (so `3e-4` is a number and `8GiB` text)."""
    from holdfast.yaml_text import YamlError, read_yaml

    chosen: dict[str, Any] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals or not path or not all(path.split(".")):
            raise UserError(f"--set {text!r}: should be PATH=VALUE, such as --set program.params.width=128")
        try:
            chosen[path] = json.loads(value)
        except ValueError:
            try:
                chosen[path] = read_yaml(value)
            except YamlError as error:
                raise UserError(f"--set {text!r}: the value is neither JSON nor YAML: {error}") from error
    return chosen


def bandwidth(text: str | None) -> float | None:
    """Of --bandwidth, bytes a second. Raises: UserError: it is no such thing."""
    return _bytes_of(text, f"--bandwidth {text}: should be bytes a second above 0, such as 1.2GB")


def memory(text: str | None) -> int:
    """Of --memory; half of what this machine has, unless given. Raises: UserError: it is no such thing."""
    read = _bytes_of(text, f"--memory {text}: should be bytes above 0, such as 64GiB")
    return int(read) if read is not None else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _bytes_of(text: str | None, wrong: str) -> float | None:
    from holdfast.spec import parse_bytes

    if text is None:
        return None
    try:
        read = float(str(parse_bytes(text)))
    except ValueError:
        read = 0.0
    if read <= 0:
        raise UserError(wrong)
    return read

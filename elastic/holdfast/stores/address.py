"""Where the store is, what opens it, and the store itself: the one place that knows which adapters there are.

    etcd://host[:port][,host[:port]...][/prefix]     etcd, its members in any number; 2379 unless a port is given
    etcds://...                                      the same over TLS
    host:port, embedded://host:port                  the embedded store of `holdfast run`

Secrets are never part of an address: they come as a `StoreAccess`.
"""

import ipaddress
import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from holdfast.errors import UserError
from holdfast.ports.store import Store
from holdfast.stores.embedded import EmbeddedStore
from holdfast.stores.etcd.tls import read_tls

__all__ = ["StoreAccess", "StoreAddress", "open_store", "parse_store"]

ETCD_PORT = 2379

_SCHEMES: dict[str, tuple[Literal["embedded", "etcd"], bool]] = {
    "embedded": ("embedded", False),
    "etcd": ("etcd", False),
    "etcds": ("etcd", True),
}
_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_PREFIX_PART = re.compile(r"[A-Za-z0-9._~@:=+-]+")
_EXAMPLES = "give etcd://HOST:2379,HOST:2379/PREFIX, etcds://... for TLS, or HOST:PORT for an embedded store"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAddress:
    """`prefix` is "" or ends with a slash and begins with none: every key of ours is put behind it."""

    scheme: Literal["embedded", "etcd"]
    endpoints: tuple[tuple[str, int], ...]
    prefix: str = ""
    tls: bool = False

    def __str__(self) -> str:
        """What `parse_store` reads back as the same address."""
        hosts = ",".join(f"{join_endpoint(host, port)}" for host, port in self.endpoints)
        scheme = "etcds" if self.tls else self.scheme
        return f"{scheme}://{hosts}" + (f"/{self.prefix.removesuffix('/')}" if self.prefix else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAccess:
    """What opens the store. `secret` is the embedded store's; all else is etcd's, the paths those of PEM files.

    `ca` is who vouches for the servers (the system's own list if None); `certificate` and `key` are the client's.
    """

    secret: bytes = field(default=b"", repr=False)
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if bool(self.user) != bool(self.password):
            given, missing = ("user", "password") if self.user else ("password", "user")
            raise UserError(f"store access: {given} is given without {missing}; give both, or neither")
        if (self.certificate is None) != (self.key is None):
            given, missing = ("certificate", "key") if self.certificate else ("key", "certificate")
            path = self.certificate or self.key
            raise UserError(f"store access: {given} {str(path)!r} is given without {missing}; give both, or neither")


def parse_store(text: str) -> StoreAddress:
    """Raises UserError, which names the part that is wrong."""
    scheme_text, separator, rest = text.strip().rpartition("://")
    scheme_text = scheme_text.lower() if separator else "embedded"
    if scheme_text not in _SCHEMES:
        raise UserError(f"store {text!r}: scheme {scheme_text!r} is unknown; {_EXAMPLES}")
    scheme, tls = _SCHEMES[scheme_text]
    hosts, _, path = rest.partition("/")
    if "@" in hosts:
        # Not echoed: it may well be a password.
        raise UserError(
            f"store: an address of scheme {scheme_text!r} holds an '@'; give user and password apart from it"
        )
    if not hosts:
        raise UserError(f"store {text!r}: host is missing; {_EXAMPLES}")
    endpoints = tuple(_parse_endpoint(text, part, ETCD_PORT if scheme == "etcd" else None) for part in hosts.split(","))
    if len(set(endpoints)) < len(endpoints):
        raise UserError(f"store {text!r}: a host and port occurs twice; name each member once")
    if scheme == "embedded" and len(endpoints) > 1:
        raise UserError(
            f"store {text!r}: hosts are {hosts!r}; an embedded store has one, for etcd write etcd://{hosts}"
        )
    if scheme == "embedded" and path:
        raise UserError(f"store {text!r}: prefix is {path!r}; an embedded store has none, leave it out")
    return StoreAddress(scheme=scheme, endpoints=endpoints, prefix=_parse_prefix(text, path), tls=tls)


def open_store(address: StoreAddress, access: StoreAccess | None = None, *, timeout_s: float = 5.0) -> Store:
    """A client, inside a running event loop. It connects in the background, whether or not the store is up yet.

    Raises:
        UserError: a file of `access` cannot be used, `access` does not fit `address`, or the etcd client is
            not installed.
    """
    access = access or StoreAccess()
    if address.scheme == "embedded":
        ((host, port),) = address.endpoints
        return EmbeddedStore(host, port, timeout_s=timeout_s, secret=access.secret)
    return _open_etcd(address, access, timeout_s)


def join_endpoint(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _open_etcd(address: StoreAddress, access: StoreAccess, timeout_s: float) -> Store:
    tls = read_tls(ca=access.ca, certificate=access.certificate, key=access.key) if address.tls else None
    given = access.ca or access.certificate
    if tls is None and given is not None:
        raise UserError(
            f"store {str(address)!r}: {str(given)!r} is given, but without TLS; write etcds://, or leave it out"
        )
    try:
        from holdfast.stores.etcd.store import EtcdStore
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"aetcd", "grpc", "google"}:
            raise
        raise UserError(
            f"store {str(address)!r}: the etcd client is not installed; pip install 'holdfast[etcd]'"
        ) from error
    return EtcdStore(
        # Shuffled, so that clients spread over the members.
        random.sample(address.endpoints, k=len(address.endpoints)),
        prefix=address.prefix,
        timeout_s=timeout_s,
        tls=tls,
        login=(access.user, access.password) if access.user and access.password else None,
    )


def _parse_endpoint(text: str, part: str, default_port: int | None) -> tuple[str, int]:
    """`part` is HOST, HOST:PORT, [IPV6] or [IPV6]:PORT."""
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", part)
    if bracketed is not None:
        host, port_text = bracketed[1], bracketed[2]
        if not _is_ipv6(host):
            raise UserError(f"store {text!r}: host {host!r} is no IPv6 address; brackets are for those alone")
    else:
        host, colon, port_text = part.partition(":")
        if ":" in port_text:
            raise UserError(f"store {text!r}: host {part!r} has several colons; write an IPv6 address in brackets")
        if not _HOST.fullmatch(host):
            raise UserError(f"store {text!r}: host {host!r} is no host name or address; {_EXAMPLES}")
        port_text = port_text if colon else None
    return host, _parse_port(text, host, port_text, default_port)


def _parse_port(text: str, host: str, port_text: str | None, default_port: int | None) -> int:
    if port_text is None:
        if default_port is None:
            raise UserError(f"store {text!r}: port of {host!r} is missing; {_EXAMPLES}")
        return default_port
    if not (port_text.isascii() and port_text.isdigit() and 1 <= int(port_text) <= 65535):
        raise UserError(f"store {text!r}: port is {port_text!r}; give a whole number from 1 to 65535")
    return int(port_text)


def _parse_prefix(text: str, path: str) -> str:
    parts = path.removesuffix("/").split("/") if path.removesuffix("/") else []
    for part in parts:
        if not _PREFIX_PART.fullmatch(part):
            raise UserError(
                f"store {text!r}: prefix is {path!r}; give names of letters, digits and ._~@:=+- with single "
                "slashes between"
            )
    return "".join(f"{part}/" for part in parts)


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False

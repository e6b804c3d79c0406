"""An address of the store is read whole, or refused by a message that names the part that is wrong."""

import sys
from pathlib import Path

import pytest

from holdfast.errors import UserError
from holdfast.stores.address import StoreAccess, StoreAddress, open_store, parse_store
from holdfast.stores.embedded import EmbeddedStore


def etcd(*endpoints: tuple[str, int], prefix: str = "", tls: bool = False) -> StoreAddress:
    return StoreAddress(scheme="etcd", endpoints=endpoints, prefix=prefix, tls=tls)


def embedded(host: str, port: int) -> StoreAddress:
    return StoreAddress(scheme="embedded", endpoints=((host, port),))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("etcd://h1:2379,h2:12379/prefix", etcd(("h1", 2379), ("h2", 12379), prefix="prefix/")),
        ("etcd://h1", etcd(("h1", 2379))),
        ("etcd://h1/", etcd(("h1", 2379))),
        ("etcd://h1,h2/a/b/", etcd(("h1", 2379), ("h2", 2379), prefix="a/b/")),
        ("ETCDS://etcd-0.etcd.ns.svc:2379/p", etcd(("etcd-0.etcd.ns.svc", 2379), prefix="p/", tls=True)),
        ("etcd://[::1],[fe80::1]:99", etcd(("::1", 2379), ("fe80::1", 99))),
        ("127.0.0.1:4000", embedded("127.0.0.1", 4000)),
        ("embedded://node-0:4000", embedded("node-0", 4000)),
        ("[::1]:4000", embedded("::1", 4000)),
        ("  localhost:1  ", embedded("localhost", 1)),
    ],
)
def test_an_address_is_read(text: str, address: StoreAddress) -> None:
    assert parse_store(text) == address
    assert parse_store(str(address)) == address


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "host is missing"),
        ("etcd://", "host is missing"),
        ("etcd:///prefix", "host is missing"),
        ("http://h:1", "scheme 'http' is unknown"),
        ("://h:1", "scheme '' is unknown"),
        ("etcd://h1,,h2", "host '' is no host name"),
        ("etcd://h 1", "host 'h 1' is no host name"),
        ("etcd://-h", "host '-h' is no host name"),
        ("etcd://h:0", "port is '0'"),
        ("etcd://h:65536", "port is '65536'"),
        ("etcd://h:", "port is ''"),
        ("etcd://h:x", "port is 'x'"),
        ("etcd://h:²", "port is '²'"),
        ("etcd://::1", "in brackets"),
        ("etcd://[h]:1", "host 'h' is no IPv6 address"),
        ("etcd://h1,h1:2379", "occurs twice"),
        ("etcd://h/a//b", "prefix is 'a//b'"),
        ("etcd://h//a", "prefix is '/a'"),
        ("etcd://h/a?b", "prefix is 'a?b'"),
        ("localhost", "port of 'localhost' is missing"),
        ("h1:1,h2:2", "etcd://h1:1,h2:2"),
        ("h:1/prefix", "prefix is 'prefix'"),
    ],
)
def test_a_wrong_address_is_refused_by_its_wrong_part(text: str, named: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_store(text)
    assert named in str(refused.value)
    assert ";" in str(refused.value), "no remedy"


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(UserError) as refused:
        parse_store("etcd://me:hunter2@h:2379")
    assert "hunter2" not in str(refused.value)


def test_no_secret_shows_in_a_printed_access() -> None:
    printed = repr(StoreAccess(secret=b"s3cret", user="me", password="hunter2"))
    assert "s3cret" not in printed
    assert "hunter2" not in printed
    assert "me" in printed


def test_what_belongs_together_comes_together() -> None:
    with pytest.raises(UserError, match="user is given without password"):
        StoreAccess(user="me")
    with pytest.raises(UserError, match="password is given without user"):
        StoreAccess(password="hunter2")
    with pytest.raises(UserError, match=r"certificate 'c\.pem' is given without key"):
        StoreAccess(certificate=Path("c.pem"))
    with pytest.raises(UserError, match=r"key 'k\.pem' is given without certificate"):
        StoreAccess(key=Path("k.pem"))


async def test_an_embedded_address_opens_the_embedded_store() -> None:
    store = open_store(parse_store("127.0.0.1:1"), StoreAccess(secret=b"s"))
    assert isinstance(store, EmbeddedStore)
    await store.close()


async def test_certificates_without_tls_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="etcds://"):
        open_store(parse_store("etcd://h"), StoreAccess(ca=tmp_path / "ca.pem"))


async def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    with pytest.raises(UserError, match=r"ca '.*ca\.pem' cannot be read"):
        open_store(parse_store("etcds://h"), StoreAccess(ca=path))
    path.write_text("no certificate")
    with pytest.raises(UserError, match=r"ca '.*ca\.pem' holds no usable certificate"):
        open_store(parse_store("etcds://h"), StoreAccess(ca=path))
    with pytest.raises(UserError, match="cannot be used together"):
        open_store(parse_store("etcds://h"), StoreAccess(certificate=path, key=path))


async def test_without_the_etcd_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("holdfast.stores.etcd.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aetcd", None)
    with pytest.raises(UserError, match=r"pip install 'holdfast\[etcd\]'"):
        open_store(parse_store("etcd://h"))

"""Who may not use an etcd is told so: by certificate, and by user and password."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from harness.etcd.operating import enable_users
from harness.etcd.server import EtcdServer, ServerTls, running_server
from holdfast.errors import StoreError, StoreUnavailableError
from holdfast.ports.store import Put, Store, WatchEvent
from holdfast.stores.address import StoreAccess, open_store, parse_store

pytestmark = pytest.mark.asyncio

WITHIN_S = 30.0
USER, PASSWORD = "worker", "correct horse"


class Authority:
    """A certificate authority and its certificates, as PEM files in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))

    def issue(self, name: str) -> tuple[Path, Path]:
        """Certificate and key for `name`, which is also a host name or address."""
        issued = self._authority.issue_cert(name, common_name=name)
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        issued.private_key_pem.write_to_path(str(key))
        return certificate, key


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "theirs")


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory, ours: Authority) -> Iterator[EtcdServer]:
    """Takes only clients with a certificate of ours."""
    certificate, key = ours.issue("127.0.0.1")
    tls = ServerTls(certificate=certificate, key=key, ca=ours.ca)
    with running_server(tmp_path_factory.mktemp("etcd-tls"), tls=tls) as server:
        yield server


@pytest.fixture(scope="module")
def user_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with running_server(tmp_path_factory.mktemp("etcd-users")) as server:
        asyncio.run(enable_users(server.endpoint, user=USER, password=PASSWORD, prefix=b"ours/"))
        yield server


@asynccontextmanager
async def opened(
    server: EtcdServer, access: StoreAccess, *, scheme: str = "etcd", prefix: str = "ours", timeout_s: float = 10.0
) -> AsyncIterator[Store]:
    address = parse_store(f"{scheme}://127.0.0.1:{server.client_port}/{prefix}")
    store = open_store(address, access, timeout_s=timeout_s)
    try:
        yield store
    finally:
        await store.close()


async def next_of(watch: AsyncIterator[tuple[WatchEvent, ...]]) -> tuple[WatchEvent, ...]:
    return await asyncio.wait_for(anext(watch), WITHIN_S)


async def test_a_client_with_a_certificate_is_served_over_tls(tls_server: EtcdServer, ours: Authority) -> None:
    certificate, key = ours.issue("agent")
    access = StoreAccess(ca=ours.ca, certificate=certificate, key=key)
    async with opened(tls_server, access, scheme="etcds") as store:
        revision = await store.put("a", b"1")
        assert (await next_of(store.watch("", revision)))[0].revision == revision
        lease = await store.grant(5)
        assert await store.keep_alive(lease) == 5


async def test_a_server_that_the_authority_does_not_vouch_for_is_refused(
    tls_server: EtcdServer, ours: Authority, theirs: Authority
) -> None:
    certificate, key = ours.issue("agent")
    access = StoreAccess(ca=theirs.ca, certificate=certificate, key=key)
    async with opened(tls_server, access, scheme="etcds", timeout_s=5.0) as store:
        with pytest.raises(StoreUnavailableError, match=r"(?i)certificate.verify.failed"):
            await store.get("a")


async def test_a_client_without_or_with_a_strange_certificate_is_refused(
    tls_server: EtcdServer, ours: Authority, theirs: Authority
) -> None:
    certificate, key = theirs.issue("agent")
    for access in (StoreAccess(ca=ours.ca), StoreAccess(ca=ours.ca, certificate=certificate, key=key)):
        async with opened(tls_server, access, scheme="etcds", timeout_s=1.5) as store:
            with pytest.raises(StoreUnavailableError, match="last trouble"):
                await store.get("a")
            with pytest.raises(StoreUnavailableError):
                await store.put("a", b"stranger's")


async def test_a_client_without_tls_is_refused_by_a_server_with_it(tls_server: EtcdServer) -> None:
    async with opened(tls_server, StoreAccess(), timeout_s=1.5) as store:
        with pytest.raises(StoreUnavailableError):
            await store.get("a")


async def test_user_and_password_open_the_prefix_that_is_granted(user_server: EtcdServer) -> None:
    async with opened(user_server, StoreAccess(user=USER, password=PASSWORD)) as store:
        revision = await store.put("a", b"1")
        assert (await next_of(store.watch("", revision)))[0].revision == revision
        assert (await store.transact([], [Put(key="a", value=b"2")])).succeeded
        lease = await store.grant(5)
        await store.put("b", b"", lease)
        assert await store.keep_alive(lease) == 5
        await store.revoke(lease)


async def test_a_wrong_password_is_said_to_be_wrong_at_once(user_server: EtcdServer) -> None:
    for access in (StoreAccess(user=USER, password="wrong"), StoreAccess(user="nobody", password=PASSWORD)):
        async with opened(user_server, access, timeout_s=WITHIN_S) as store:
            with pytest.raises(StoreError, match=rf"login of user '{access.user}'.*right user and password") as refused:
                await store.get("a")
            assert not isinstance(refused.value, StoreUnavailableError)
            assert "wrong" not in str(refused.value).replace("right user", "")
            with pytest.raises(StoreError, match="login of user"):
                await next_of(store.watch("", 1))


async def test_a_login_that_is_missing_is_asked_for(user_server: EtcdServer) -> None:
    async with opened(user_server, StoreAccess(), timeout_s=WITHIN_S) as store:
        with pytest.raises(StoreError, match="give them"):
            await store.get("a")


async def test_a_login_where_there_are_no_users_is_refused(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        async with opened(server, StoreAccess(user=USER, password=PASSWORD), timeout_s=WITHIN_S) as store:
            with pytest.raises(StoreError, match="leave user and password away"):
                await store.get("a")


async def test_keys_outside_the_grant_are_refused(user_server: EtcdServer) -> None:
    access = StoreAccess(user=USER, password=PASSWORD)
    async with opened(user_server, access, prefix="theirs", timeout_s=WITHIN_S) as store:
        for ask in (lambda: store.get("a"), lambda: store.put("a", b""), lambda: next_of(store.watch("", 1))):
            with pytest.raises(StoreError, match=r"permission denied.*grant the user's role"):
                await ask()


async def test_a_login_is_renewed_when_the_server_forgets_it(user_server: EtcdServer) -> None:
    async with opened(user_server, StoreAccess(user=USER, password=PASSWORD)) as store:
        watch = store.watch("", await store.put("a", b"1"))
        assert (await next_of(watch))[0].kv.value == b"1"
        waiting = asyncio.create_task(next_of(watch))
        # It keeps its tokens in memory.
        user_server.kill()
        user_server.start()
        await asyncio.to_thread(user_server.wait_healthy)
        revision = await store.put("a", b"2")
        assert (await waiting)[0].revision == revision

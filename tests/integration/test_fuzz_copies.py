"""Random bytes, wrong secrets, and requests that are too long or break off, where agents give each other copies."""

import asyncio
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from harness.fuzzing import BYTES
from holdfast.agent.blob_client import BlobClient, PeerAddress
from holdfast.agent.contact import ContactPoint
from holdfast.agent.credentials import Credentials
from holdfast.agent.http import HttpPort, Listening
from holdfast.agent.offers import Version
from holdfast.agent.peer_tier import PeerTier
from holdfast.agent.peers import Peers
from holdfast.model.ids import NodeId
from holdfast_checkpoint.digest import digest_of
from holdfast_checkpoint.header import LENGTH
from holdfast_checkpoint.ram import Copy, RamTier
from integration.test_fuzz_ports import FUZZ, SECRET, run

COPY_ROUTES = st.sampled_from(
    [
        b"/snapshots?node=b&incarnation=i&layers=1",
        b"/snapshots?node=b&layers=" + b"f" * 3500,
        b"/snapshots?node=b&layers=1&after=99999999999999999999.1",
        b"/copies/0/10/1",
        b"/copies/0/10/1?for=2",
        b"/copies/999999999/999999999999999999/0?for=" + b"9" * 30,
        b"/blobs/0/10/1?start=0&stop=300000",
        b"/blobs/0/10/1?start=-1&stop=99999999999999999999",
        b"/blobs/0/10/1?start=5&stop=5&urgent&doubted=1",
        b"/blobs/../../etc/passwd",
        b"/blobs/0/10/1%00",
    ]
)
# None: no signature; else with that secret, of which one is the job's.
SIGNERS = st.sampled_from([None, b"another secret, as long", SECRET])


@st.composite
def copy_requests(draw: st.DrawFn) -> tuple[bytes, bytes | None, int | None]:
    """Path, secret, and after how many bytes the sender stops and hangs up; None: all is sent."""
    path = draw(st.one_of(COPY_ROUTES, BYTES.map(lambda data: b"/blobs/" + data), COPY_ROUTES.map(lambda p: p * 40)))
    return path, draw(SIGNERS), draw(st.none() | st.integers(0, 200))


@FUZZ
@given(requests=st.lists(copy_requests(), min_size=1, max_size=5))
def test_who_may_not_have_copies_gets_none_and_who_asks_nonsense_disturbs_nobody(
    requests: list[tuple[bytes, bytes | None, int | None]],
) -> None:
    content = LENGTH.pack(300_000) + b"the job's own" * 20_000
    content = content[:300_000].ljust(300_000)

    async def work() -> None:
        peers, ram, corrupt = Peers(Credentials(SECRET, "job")), RamTier(), list[Copy]()
        tier = PeerTier(
            NodeId("a"), ram, peers, None, on_copied=lambda: None, on_pulled=lambda: None, on_corrupt=corrupt.append
        )
        listening, contact = Listening(host="127.0.0.1"), ContactPoint(lambda _: None)
        port = HttpPort(listening, peers, dict, dict, contact, for_peers=tier.routes())
        incoming = ram.new_buffer(0, 10, 1, len(content), "peer:c")
        incoming.memory[:] = content
        incoming.commit(digest_of(content))
        await port.open()
        client = BlobClient(peers)
        try:
            answers = await asyncio.gather(*(ask(port.port, *request) for request in requests))
            for (_, secret, _), answer in zip(requests, answers, strict=True):
                assert secret == SECRET or b"the job's own" not in answer, "a stranger got a copy"
            memory, address = bytearray(len(content)), PeerAddress(node="a", host="127.0.0.1", port=port.port)
            await client.pull(address, 0, Version(10, 1), digest_of(content), memoryview(memory))
            assert bytes(memory) == content
            assert ram.versions() == {(10, 1): frozenset({0})}
        finally:
            await port.close()
            tier.close()
            client.close()
            ram.close()
        assert not corrupt

    run(work())


async def ask(port: int, path: bytes, secret: bytes | None, stop: int | None) -> bytes:
    """What comes back within a moment."""
    head = b"GET %b HTTP/1.1\r\nHost: a\r\n" % path
    if secret is not None:
        target = path.decode("latin-1")
        head += b"Authorization: %b\r\n" % Credentials(secret, "job").sign("GET", target).authorization.encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    with suppress(OSError):
        writer.write((head + b"\r\n")[:stop])
        await writer.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                while data := await reader.read(65536):
                    answer += data
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return answer

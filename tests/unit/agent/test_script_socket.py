"""The socket for scripts: what they send is checked, and nothing that they do ends the agent."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.agent.credentials import Credentials
from holdfast.agent.peers import Peers
from holdfast.agent.roll import Roll
from holdfast.agent.room import Room
from holdfast.agent.script_socket import ScriptSocket
from holdfast.agent.shelf import Setting, Shelf
from holdfast.errors import UserError
from holdfast.model.ids import NodeId
from holdfast.model.keeping import HeldSave, KeeperRecord
from holdfast.model.records import AgentRef, Version
from holdfast_checkpoint.agent_messages import FRAME_HEAD, Hand, Named, script_of
from holdfast_checkpoint.dcp.handing import blob_file
from holdfast_checkpoint.dcp.local_agent import AgentGoneError, LocalAgent
from holdfast_checkpoint.digest import digest_of
from holdfast_checkpoint.errors import NoCheckpointError, StorageError

URL = "file:///run"
SAVE = Named(1 << 50, 4)
DATA = b"12345678 the bytes of a blob"


class Place:
    """A shelf, and what the store says when it is read."""

    MEMORY = 5 * len(DATA)

    def __init__(self) -> None:
        peers = Peers(Credentials(b"0123456789abcdef", "script:x"))
        self.records: list[KeeperRecord] = []
        self._roll = Roll(NodeId("a"), peers, self._read)
        self.record_bytes = 100
        room = Room(self.MEMORY, lambda: [self.shelf.ram], lambda: self.record_bytes)
        setting = Setting(
            node=NodeId("a"), peers=peers, copies=1, bandwidth=None, changed=lambda: None, roll=self._roll, room=room
        )
        self.shelf = Shelf(script_of(URL), setting)

    async def _read(self) -> None:
        self._roll.see(self.records)
        self.shelf.see(self.records)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    made = Place()
    yield made
    made.shelf.close()


@pytest.fixture
def shelf(place: Place) -> Shelf:
    return place.shelf


@pytest.fixture
async def agent(tmp_path: Path, shelf: Shelf) -> AsyncIterator[LocalAgent]:
    served = ScriptSocket(tmp_path / "s", lambda _: shelf)
    served.open()
    task = asyncio.create_task(served.run())
    client = LocalAgent(tmp_path / "s", URL)
    yield client
    client.close()
    task.cancel()
    await asyncio.wait([task])
    served.close()
    assert not (tmp_path / "s").exists()


def _blob(data: bytes = DATA) -> int:
    fd = blob_file()
    os.write(fd, data)
    return fd


async def test_a_blob_that_is_handed_over_outlives_the_script_and_is_read_only(agent: LocalAgent) -> None:
    fd = _blob()
    await asyncio.to_thread(agent.begin, SAVE, 1, None)
    await asyncio.to_thread(agent.hand, SAVE, 0, 0, fd, digest_of(DATA))
    os.close(fd)
    agent.close()
    found, node = await asyncio.to_thread(agent.open, SAVE, 0)
    assert (node, os.pread(found, 100, 0)) == ("a", DATA)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(found, b"x")
    os.close(found)


async def test_a_file_that_may_still_shrink_under_its_readers_is_refused(agent: LocalAgent, tmp_path: Path) -> None:
    await asyncio.to_thread(agent.begin, SAVE, 1, None)
    (tmp_path / "file").write_bytes(DATA)
    step, generation, digest = SAVE.step, SAVE.generation, digest_of(DATA)
    hand = Hand(script=script_of(URL), step=step, generation=generation, layer=0, rank=0, digest=digest)
    for fd in (_blob(), os.open(tmp_path / "file", os.O_RDONLY), None):
        with pytest.raises(StorageError, match="sealed against shrinking and growing"):
            await asyncio.to_thread(agent._ask, hand, 5.0, fd)
        if fd is not None:
            os.close(fd)
    assert isinstance((await asyncio.to_thread(agent.look, 1.0)).saves, tuple)  # it goes on


async def test_a_blob_of_another_size_number_or_save_is_refused_by_name(agent: LocalAgent) -> None:
    fd = _blob()
    with pytest.raises(NoCheckpointError, match="step 4, generation 1125899906842624 is not known here"):
        await asyncio.to_thread(agent.hand, SAVE, 0, 0, fd, digest_of(DATA))
    await asyncio.to_thread(agent.begin, SAVE, 1, None)
    with pytest.raises(NoCheckpointError, match="has 1 blobs, and none is number 7"):
        await asyncio.to_thread(agent.hand, SAVE, 7, 0, fd, digest_of(DATA))
    with pytest.raises(StorageError, match=f"has {len(DATA)} bytes, and {len(DATA) + 1} were told"):
        await asyncio.to_thread(agent.hand, SAVE, 0, 0, fd, digest_of(DATA + b"x"))
    with pytest.raises(StorageError, match="20000 blobs; agents keep saves of up to"):
        await asyncio.to_thread(agent.begin, SAVE, 20_000, None)
    os.close(fd)


async def test_of_the_saves_before_only_the_one_to_keep_stays(agent: LocalAgent, shelf: Shelf) -> None:
    saves = [Named(SAVE.generation + number, number) for number in range(3)]
    for save in saves:
        await asyncio.to_thread(agent.begin, save, 1, saves[0])
        fd = _blob()
        await asyncio.to_thread(agent.hand, save, 0, 0, fd, digest_of(DATA))
        os.close(fd)
    assert set(shelf.ram.versions()) == {(save.step, save.generation) for save in (saves[0], saves[2])}
    shelf.forget(saves[0].made_s + 1)
    assert not shelf.ram.versions()


async def test_what_the_store_would_not_take_any_more_is_refused_before_it_is_begun(
    agent: LocalAgent, place: Place
) -> None:
    place.record_bytes = 990_000
    await asyncio.to_thread(agent.begin, SAVE, 100, None)
    with pytest.raises(StorageError, match=r"1000 blobs more .*about 1010000 bytes.*make blobs larger \(blob_bytes\)"):
        await asyncio.to_thread(agent.begin, SAVE, 1000 - 1, None)


async def test_an_agent_that_is_full_takes_no_more_and_lets_the_saves_go_to_the_storage(
    agent: LocalAgent, place: Place
) -> None:
    """A blob of each save is kept here, and two are another machine's that it gave us to keep."""
    place.shelf.ram.adopt("peer:b", 1, SAVE.step, SAVE.generation, f"/proc/self/fd/{_blob()}", digest_of(DATA))
    await asyncio.to_thread(agent.begin, SAVE, 6, None)
    for number in (0, 2):
        await asyncio.to_thread(agent.look, 0.01)
        await asyncio.to_thread(agent.hand, SAVE, number, 0, _blob(), digest_of(DATA))
    with pytest.raises(StorageError, match=r"no room for 84 bytes more: 84 of 140 are taken; .*\(--memory\)"):
        await asyncio.to_thread(agent.look, 0.01)
    await asyncio.to_thread(agent.hand, SAVE, 3, 0, _blob(), digest_of(DATA))
    await asyncio.to_thread(agent.hand, SAVE, 4, 0, _blob(), digest_of(DATA))
    with pytest.raises(StorageError, match="no room for 28 bytes more: 140 of 140 are taken"):
        await asyncio.to_thread(agent.hand, SAVE, 5, 0, _blob(), digest_of(DATA))
    with pytest.raises(StorageError, match="no room for 28"):
        place.shelf.ram.new_buffer(5, SAVE.step, SAVE.generation, len(DATA), "peer:b")
    place.shelf.ram.new_buffer(5, SAVE.step, SAVE.generation, len(DATA), "fetched").discard()  # somebody loads


async def test_who_saves_hears_of_the_save_whose_agent_is_slow_to_answer_and_who_loads_does_not(
    agent: LocalAgent, place: Place
) -> None:
    one = HeldSave(script=script_of(URL), version=Version(SAVE.step, SAVE.generation), blobs=0, own={0: 5})
    away = AgentRef(node=NodeId("b"), incarnation="b", host="127.0.0.1", port=1, domain="b")
    place.records = [KeeperRecord(agent=away, held=(one,))]
    assert (await asyncio.to_thread(agent.look)).saves == ()
    (seen,) = (await asyncio.to_thread(agent.look, 0.01)).saves
    assert seen.named == SAVE


@pytest.mark.parametrize(
    "sent",
    [
        FRAME_HEAD.pack(1 << 31),
        FRAME_HEAD.pack(5) + b"Loo",
        FRAME_HEAD.pack(4) + b"Oops",
        FRAME_HEAD.pack(8) + b"Look {} ",
        FRAME_HEAD.pack(47) + b'Look {"v":1,"body":{"script":"../../etc/passwd"}}'[:47],
    ],
)
async def test_whatever_a_script_sends_the_agent_goes_on(agent: LocalAgent, sent: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as rude:
        rude.connect(str(agent.path))
        rude.sendall(sent)
        rude.shutdown(socket.SHUT_WR)
        rude.settimeout(5)
        await asyncio.to_thread(rude.recv, 1000)
    assert (await asyncio.to_thread(agent.look, 1.0)).node == "a"


async def test_an_agent_that_is_gone_is_said_once_and_not_waited_for_again(tmp_path: Path) -> None:
    agent = LocalAgent(tmp_path / "none", URL)
    for _ in range(2):
        with pytest.raises(AgentGoneError, match="none: the agent does not answer"):
            agent.look()


async def test_a_path_that_cannot_be_a_socket_is_refused_and_a_dead_agents_is_taken_over(tmp_path: Path) -> None:
    def opened(path: Path) -> ScriptSocket:
        made = ScriptSocket(path, lambda _: pytest.fail("nobody asks"))
        made.open()
        return made

    with pytest.raises(UserError, match=r"--socket .*: is longer than 107 bytes"):
        opened(tmp_path / ("x" * 120))
    with pytest.raises(UserError, match=r"--socket .*: No such file"):
        opened(tmp_path / "none" / "s")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"--socket .*: Address already in use"):
        opened(tmp_path / "file")
    first = opened(tmp_path / "s")
    with pytest.raises(UserError, match="another agent listens there"):
        opened(tmp_path / "s")
    assert first._listening is not None
    first._listening.close()  # as if it had died
    opened(tmp_path / "s").close()

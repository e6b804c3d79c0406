"""A layer that is restored comes from the nearest sound copy, and what is not sound is named."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.agent.fetching import CHECKPOINT, Fetched, Fetching, LostCopiesError
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.records import Action, Restore, StartRecord, Version
from holdfast_checkpoint.digest import digest_of
from holdfast_checkpoint.errors import CorruptError, StorageBusyError
from holdfast_checkpoint.folders import folder_of
from holdfast_checkpoint.manifest import BlobEntry, Manifest
from holdfast_checkpoint.ram import FETCHED, Copy, RamTier
from holdfast_checkpoint.remote import Repository

pytestmark = pytest.mark.asyncio
HERE, THERE, FAR = NodeId("here"), NodeId("there"), NodeId("zfar")
VERSION = Version(4, 2)
# The begin of a blob tells that it is whole; the rest is as it comes.
BLOB = (56).to_bytes(8, "little") + b'{"__metadata__":{"step":"4","generation":"2"}}'.ljust(56) + os.urandom(100)
FOLDER = folder_of(4, "run", 2)


@pytest.fixture
def ram() -> Iterator[RamTier]:
    tier = RamTier()
    yield tier
    tier.close()


def hold(ram: RamTier, origin: str = "own:0", layer: int = 0) -> Copy:
    incoming = ram.new_buffer(layer, VERSION.step, VERSION.generation, len(BLOB), origin)
    incoming.memory[:] = BLOB
    return incoming.commit(digest_of(BLOB))


def flip(copy: Copy) -> None:
    with Path(f"/proc/self/fd/{copy.file.fileno()}").open("r+b", buffering=0) as file:
        file.seek(-1, os.SEEK_END)
        file.write(bytes([BLOB[-1] ^ 1]))


def repository_in(folder: Path) -> Repository:
    source = folder / "blob"
    source.write_bytes(BLOB)
    made = Repository(str(folder / "checkpoints"), give_up_s=0.1)
    path = made.put_blob(FOLDER, 0, source, digest_of(BLOB))
    entry = BlobEntry(layer=0, name="embed", path=path, digest=digest_of(BLOB))
    made.commit(
        FOLDER,
        Manifest(
            step=4, generation=2, run="run", job="toy", samples=64, created="", identity={}, spec={}, blobs=(entry,)
        ),
    )
    return made


class Story:
    """One layer for one slot of this node, wanted from the peers in this order."""

    def __init__(self, ram: RamTier, *sources: NodeId, repository: Repository | None = None) -> None:
        restore = Restore(layer=0, target=SlotId(HERE, 0), sources=sources)
        self.start = StartRecord(
            generation=3,
            action=Action.TRAIN,
            version=VERSION,
            plan=None,
            transfers=(),
            roll_forward=None,
            redone_steps=0,
            initialise=False,
            restores=(restore,),
            checkpoint=FOLDER if repository is not None else "",
        )
        self.ram, self.repository = ram, repository
        self.asked: list[NodeId] = []
        self.corrupt: list[str] = []
        self.fail: dict[NodeId, Exception] = {}

    async def pull(self, node: NodeId, layer: int, version: Version) -> Copy:
        self.asked.append(node)
        if node in self.fail:
            raise self.fail[node]
        return hold(self.ram, FETCHED, layer)

    async def run(self) -> Fetched:
        fetched: list[Fetched] = []
        await Fetching(
            node=HERE,
            start=self.start,
            ram=self.ram,
            repository=self.repository,
            pull=self.pull,
            on_corrupt=self.corrupt.append,
        ).run(fetched.append)
        (one,) = fetched
        return one


async def test_its_own_ram_comes_first_and_nobody_is_asked(ram: RamTier) -> None:
    own = hold(ram)
    story = Story(ram, HERE, THERE)

    fetched = await story.run()

    assert (fetched.copy, fetched.source) == (own, HERE)
    assert not story.asked


async def test_a_corrupt_copy_of_its_own_is_forgotten_and_a_peer_asked(ram: RamTier) -> None:
    flip(hold(ram))
    story = Story(ram, HERE, THERE)

    assert (await story.run()).source == THERE
    assert story.corrupt == ["own"]
    assert [copy.origin for copy in ram.find(0, VERSION.step, VERSION.generation)] == [FETCHED]


async def test_peers_are_asked_in_their_order_and_then_the_checkpoint(ram: RamTier, tmp_path: Path) -> None:
    story = Story(ram, THERE, FAR, repository=repository_in(tmp_path))
    story.fail = {THERE: ConnectionResetError("gone"), FAR: CorruptError("flipped")}

    fetched = await story.run()

    assert story.asked == [THERE, FAR]
    assert fetched.source == CHECKPOINT
    assert fetched.copy.digest == digest_of(BLOB)
    assert story.corrupt == [FAR]


async def test_where_nothing_is_sound_it_says_what_was_tried_and_which_checkpoint_is_to_blame(
    ram: RamTier, tmp_path: Path
) -> None:
    story = Story(ram, THERE, repository=repository_in(tmp_path))
    story.fail = {THERE: ConnectionResetError("gone")}
    (blob,) = (tmp_path / "checkpoints").glob("*/00000.safetensors")
    blob.write_bytes(BLOB[:-1] + bytes([BLOB[-1] ^ 1]))

    with pytest.raises(ExceptionGroup) as raised:
        await story.run()
    (lost,) = raised.value.exceptions
    assert isinstance(lost, LostCopiesError)
    assert lost.unsound == FOLDER
    assert "there: gone" in str(lost)
    assert "corrupt" in str(lost)


async def test_a_storage_that_does_not_answer_is_no_corrupt_checkpoint(
    ram: RamTier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = repository_in(tmp_path)

    def away(*_: object) -> None:
        raise StorageBusyError("no answer")

    monkeypatch.setattr(repository, "read_blob_into", away)
    with pytest.raises(ExceptionGroup) as raised:
        await Story(ram, repository=repository).run()
    (lost,) = raised.value.exceptions
    assert isinstance(lost, LostCopiesError)
    assert lost.unsound == ""

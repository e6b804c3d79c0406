"""A layer that is restored comes from the nearest sound copy, and what is not sound is named."""

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.waiting import until
from holdfast.agent.checkpoint_reading import Absence, CheckpointReader
from holdfast.agent.fetching import Fetched, Fetching, LostCopiesError
from holdfast.agent.relaying import lines
from holdfast.agent.remote_tier import RemoteTier
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.messages import CHECKPOINT
from holdfast.model.records import Action, Restore, StartRecord, Version
from holdfast_checkpoint.digest import digest_of
from holdfast_checkpoint.errors import CorruptError, StorageBusyError
from holdfast_checkpoint.folders import folder_of
from holdfast_checkpoint.manifest import BlobEntry, Manifest
from holdfast_checkpoint.ram import Copy, RamTier
from holdfast_checkpoint.remote import Repository
from holdfast_checkpoint.retention import being_read
from holdfast_checkpoint.sparing import FETCHED

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
    """One layer for one slot of this node, wanted from the peers in this order; and by slots of `others` too."""

    def __init__(
        self,
        ram: RamTier,
        *sources: NodeId,
        repository: Repository | None = None,
        others: tuple[NodeId, ...] = (),
        away_s: float = 0.0,
        say_after_s: float = 60.0,
    ) -> None:
        restores = tuple(Restore(layer=0, target=SlotId(node, 0), sources=sources) for node in sorted((HERE, *others)))
        self.start = StartRecord(
            generation=3,
            action=Action.TRAIN,
            version=VERSION,
            plan=None,
            transfers=(),
            roll_forward=None,
            redone_steps=0,
            initialise=False,
            restores=restores,
            checkpoint=FOLDER if repository is not None else "",
        )
        self.ram, self.remote = ram, RemoteTier(repository=repository) if repository is not None else None
        self.said: list[str] = []
        self.absence = Absence(away_s, say_after_s, self.said.append)
        self.asked: list[tuple[NodeId, int | None]] = []
        self.corrupt: list[str] = []
        self.spoilt: list[Copy] = []
        self.fail: dict[NodeId, Exception] = {}

    async def pull(self, node: NodeId, layer: int, version: Version, fetched_for: int | None) -> Copy:
        self.asked.append((node, fetched_for))
        if node in self.fail:
            raise self.fail[node]
        return hold(self.ram, FETCHED, layer)

    async def run(self) -> Fetched:
        fetched: list[Fetched] = []
        ended: list[int] = []
        reader = None
        if self.remote is not None:
            reader = CheckpointReader(self.remote, FOLDER, VERSION, self.ram, self.absence)
        try:
            await Fetching(
                node=HERE,
                start=self.start,
                ram=self.ram,
                reader=reader,
                lines=lines(self.start.restores, (len(BLOB),)),
                pull=self.pull,
                on_corrupt=self.corrupt.append,
                on_spoilt=self.spoilt.append,
                on_ended=ended.append,
            ).run(fetched.append)
        finally:
            assert ended == [0], "who waits for it here hears of it, good or bad"
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
    assert not story.corrupt
    assert [copy.origin for copy in story.spoilt] == ["own:0"], "its worker is to hear of it"
    assert [copy.origin for copy in ram.find(0, VERSION.step, VERSION.generation)] == [FETCHED]


async def test_peers_are_asked_in_their_order_and_then_the_checkpoint(ram: RamTier, tmp_path: Path) -> None:
    story = Story(ram, THERE, FAR, repository=repository_in(tmp_path))
    story.fail = {THERE: ConnectionResetError("gone"), FAR: CorruptError("flipped")}

    fetched = await story.run()

    assert story.asked == [(THERE, None), (FAR, None)]
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
    monkeypatch.setattr(repository, "read_blob_into", away)
    story = Story(ram, repository=repository)
    with pytest.raises(ExceptionGroup) as raised:
        await story.run()
    (lost,) = raised.value.exceptions
    assert isinstance(lost, LostCopiesError)
    assert lost.unsound == ""
    assert story.said == [], "the job has no patience: it failed at once"


def away(*_: object) -> None:
    raise StorageBusyError("no answer")


async def test_a_storage_that_is_away_for_a_while_is_waited_for_and_that_is_said(
    ram: RamTier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.agent.checkpoint_reading._AGAIN_S", 0.01)
    repository = repository_in(tmp_path)
    read, failures = repository.read_blob_into, iter([StorageBusyError("503"), StorageBusyError("503")])

    def read_at_last(folder: str, entry: BlobEntry, buffer: memoryview) -> None:
        for failure in failures:
            raise failure
        read(folder, entry, buffer)

    monkeypatch.setattr(repository, "read_blob_into", read_at_last)
    story = Story(ram, repository=repository, away_s=60)

    assert (await story.run()).source == CHECKPOINT
    assert story.said == ["503", ""]


async def test_a_machine_that_does_not_see_the_storage_condemns_no_checkpoint(
    ram: RamTier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.agent.checkpoint_reading._AGAIN_S", 0.01)
    made = repository_in(tmp_path)
    (tmp_path / "checkpoints").rename(tmp_path / "elsewhere")
    story = Story(ram, repository=made, away_s=30.0)
    running = asyncio.create_task(story.run())
    await until(lambda: story.said)
    assert "is it mounted?" in story.said[0]
    (tmp_path / "elsewhere").rename(tmp_path / "checkpoints")  # it is now
    assert (await running).source == CHECKPOINT


async def test_an_outage_that_no_call_saw_the_end_of_does_not_shorten_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr("holdfast.agent.checkpoint_reading.time.monotonic", lambda: now_s)
    absence = Absence(3600.0, 1.0, lambda _: None)
    for begun_s, goes_on in ((0.0, True), (3000.0, True), (3050.0, True)):
        now_s = begun_s
        absence.asks(begun_s)
        assert absence.failed() is goes_on
        absence.goes_on(begun_s)  # it was cancelled
    now_s = 7000.0
    absence.asks("next")
    assert absence.failed()
    now_s = 7000.0 + 3600.0
    assert not absence.failed(), "so long it lasted"


async def test_a_storage_that_hangs_is_said_to_be_waited_for_and_ram_is_verified_meanwhile(
    ram: RamTier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, released = repository_in(tmp_path), threading.Event()
    read = repository.read_blob_into

    def hang(folder: str, entry: BlobEntry, buffer: memoryview) -> None:
        released.wait()
        read(folder, entry, buffer)

    monkeypatch.setattr(repository, "read_blob_into", hang)
    story = Story(ram, repository=repository, away_s=60, say_after_s=0.05)
    remote = story.remote
    assert remote is not None
    hanging = [asyncio.create_task(remote.restores.call(released.wait, 60)) for _ in range(3)]
    reading = asyncio.create_task(story.run())
    async with asyncio.timeout(20):
        await until(lambda: story.said)
        assert "has not answered for 0.05 s" in story.said[0]

        with RamOf() as other:
            own = Story(other, HERE)
            hold(other)
            assert (await own.run()).source == HERE, "though every thread for restores hangs"

        released.set()
        assert (await reading).source == CHECKPOINT
    assert story.said[-1] == ""
    await asyncio.gather(*hanging)


class RamOf(RamTier):
    def __enter__(self) -> RamTier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def test_what_a_call_that_was_given_up_writes_later_reaches_no_copy(
    ram: RamTier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.agent.checkpoint_reading._AGAIN_S", 0.01)
    monkeypatch.setattr("holdfast.agent.checkpoint_reading._CALL_S", 0.2)
    repository, released, late = repository_in(tmp_path), threading.Event(), threading.Event()
    read, calls = repository.read_blob_into, iter(range(9))

    def hang_first(folder: str, entry: BlobEntry, buffer: memoryview) -> None:
        with buffer.cast("B") as view:
            if next(calls) == 0:
                released.wait()
                view[:] = bytes(len(view))
                late.set()
                return
        read(folder, entry, buffer)

    monkeypatch.setattr(repository, "read_blob_into", hang_first)
    copy = (await Story(ram, repository=repository, away_s=60).run()).copy
    released.set()
    assert await asyncio.to_thread(late.wait, 10)
    ram.verify(copy)


async def test_of_nodes_that_want_a_layer_of_a_checkpoint_one_reads_and_the_others_ask_it(
    ram: RamTier, tmp_path: Path
) -> None:
    story = Story(ram, repository=repository_in(tmp_path), others=(THERE,))
    assert (await story.run()).source == CHECKPOINT
    assert not story.asked, "this one reads"

    story = Story(ram, repository=repository_in(tmp_path), others=(NodeId("a"),))
    ram.keep_only(lambda copy: False)
    assert (await story.run()).source == "a"
    assert story.asked == [("a", 3)], "and waits for what it reads for generation 3"


async def test_where_who_was_to_read_does_not_give_it_the_checkpoint_is_read_here(ram: RamTier, tmp_path: Path) -> None:
    story = Story(ram, repository=repository_in(tmp_path), others=(NodeId("a"),))
    story.fail = {NodeId("a"): ConnectionResetError("gone")}
    assert (await story.run()).source == CHECKPOINT


async def test_a_restore_says_what_it_reads_and_goes_on_where_it_may_not_write(
    ram: RamTier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = repository_in(tmp_path)
    await Story(ram, repository=repository).run()
    (found,) = repository.list()
    assert being_read([found], time.time()) == {FOLDER}

    ram.keep_only(lambda copy: False)
    monkeypatch.setattr(repository, "say_reading", away)
    assert (await Story(ram, repository=repository).run()).source == CHECKPOINT

"""A checkpoint's share is written, or given up in time; what hangs in one holds up no other for ever."""

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.waiting import until
from holdfast.agent.remote_tier import RemoteTier
from holdfast.agent.uploading import Uploader
from holdfast.model.ids import NodeId
from holdfast.model.records import UploadRecord, Version
from holdfast_checkpoint.digest import digest_of
from holdfast_checkpoint.errors import StorageError
from holdfast_checkpoint.folders import folder_of
from holdfast_checkpoint.header import LENGTH
from holdfast_checkpoint.ram import Copy, RamTier
from holdfast_checkpoint.remote import Repository
from holdfast_checkpoint.sparing import PEER

pytestmark = pytest.mark.asyncio
FIRST, SECOND = Version(10, 1), Version(20, 1)
WITHIN_S = 30.0  # on a machine that is busy with other tests; what hangs, hangs until it is released


def content(layer: int, version: Version, size: int) -> bytes:
    begin = LENGTH.pack(size) + f"{layer}/{version.step}".encode()
    return begin + bytes(size - len(begin))


class Story:
    """An uploader whose storage may hang: `hold` stops it where it writes a blob, `release` lets all go on."""

    def __init__(self, folder: Path, give_up_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ram, self.folder = RamTier(), folder
        self.said, self.spoilt = list[UploadRecord](), list[Copy]()
        self.remote = RemoteTier(repository=Repository(str(folder), give_up_s=0.1))
        self.may_take(give_up_s)
        self._may_write, self.writing, self.ended = threading.Event(), 0, list[str]()
        self._may_write.set()
        put = self.remote.repository.put_blob

        def put_blob(*arguments: Any) -> str:
            self.writing += 1
            self._may_write.wait()
            try:
                return put(*arguments)
            except StorageError as error:
                self.ended.append(str(error))
                raise

        monkeypatch.setattr(self.remote.repository, "put_blob", put_blob)

    def may_take(self, give_up_s: float) -> None:
        """From now on each upload; another uploader has the same storage, and the same threads."""
        self.uploader = Uploader(
            self.remote, "run", NodeId("node"), self.ram, self.said.append, self.spoilt.append, give_up_s
        )

    def hold(self) -> None:
        self._may_write.clear()

    def release(self) -> None:
        self._may_write.set()

    def take(self, version: Version, *layers: int, size: int = 1000, origin: str = f"{PEER}:other") -> None:
        for layer in layers:
            data = content(layer, version, size)
            incoming = self.ram.new_buffer(layer, version.step, version.generation, size, origin)
            incoming.memory[:] = data
            incoming.commit(digest_of(data))

    def stored(self, version: Version) -> set[str]:
        folder = self.folder / folder_of(version.step, "run", version.generation)
        return {name for name in os.listdir(folder) if not name.startswith(".")} if folder.exists() else set()


@pytest.fixture
def stories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Story]]:
    made: list[Story] = [Story(tmp_path, 1.0, monkeypatch)]
    yield made
    for story in made:
        story.release()
        story.ram.close()


async def test_its_share_is_written_and_told(stories: list[Story]) -> None:
    (story,) = stories
    story.may_take(60.0)
    story.take(FIRST, 0, 1)
    await story.uploader.upload(FIRST, [0, 1], 0.5)
    (record,) = story.said
    assert [blob.layer for blob in record.blobs] == [0, 1]
    assert len(story.stored(FIRST)) == 2


async def test_a_copy_that_rotted_is_dropped_and_told_of_and_the_next_one_written(stories: list[Story]) -> None:
    (story,) = stories
    story.may_take(60.0)
    story.take(FIRST, 0, origin="peer:one")
    (rotten,) = story.ram.find(0, FIRST.step, FIRST.generation)
    with rotten.file.hold() as fd:
        os.pwrite(fd, bytes([os.pread(fd, 1, 500)[0] ^ 1]), 500)
    story.take(FIRST, 0, origin="peer:two")
    await story.uploader.upload(FIRST, [0], 0.5)

    assert story.spoilt == [rotten]
    assert [copy.origin for copy in story.ram.find(0, FIRST.step, FIRST.generation)] == ["peer:two"]
    assert len(story.said) == 1


async def test_an_upload_that_hangs_is_given_up_in_its_time_and_the_next_checkpoint_is_written(
    stories: list[Story], caplog: pytest.LogCaptureFixture
) -> None:
    (story,) = stories
    story.take(FIRST, 0, 1)
    story.take(SECOND, 0)
    story.hold()
    await asyncio.wait_for(story.uploader.upload(FIRST, [0, 1], None), WITHIN_S)
    assert not story.said
    assert [r.getMessage() for r in caplog.records].count("checkpoint.upload_failed") == 2
    assert all("given up" in vars(r)["error"] for r in caplog.records if "error" in vars(r))

    story.release()
    story.may_take(60.0)
    await story.uploader.upload(SECOND, [0], None)
    assert [record.version for record in story.said] == [SECOND]
    await story.remote.uploads.settle(10)
    assert not story.stored(FIRST), "what was given up writes nothing later"
    assert len(story.ended) == 2
    assert all("it was given up" in text for text in story.ended)


async def test_uploads_that_hang_never_pile_up(stories: list[Story]) -> None:
    (story,) = stories
    story.hold()
    for step in range(1, 6):
        version = Version(step, 1)
        story.take(version, 0, 1)
        await story.uploader.upload(version, [0, 1], None)
    assert story.writing == 4, "as many as there are threads"
    story.may_take(60.0)
    newest = Version(6, 1)
    story.take(newest, 0)
    uploading = asyncio.create_task(story.uploader.upload(newest, [0], None))
    await asyncio.sleep(0.02)
    story.release()
    await uploading
    assert [record.version for record in story.said] == [newest], "threads that came free are used at once"


async def test_a_version_that_was_given_up_can_be_written_later(stories: list[Story]) -> None:
    (story,) = stories
    story.take(FIRST, 0)
    story.hold()
    await story.uploader.upload(FIRST, [0], None)
    story.release()
    await story.remote.uploads.settle(10)
    story.may_take(60.0)
    await story.uploader.upload(FIRST, [0], None)
    assert len(story.stored(FIRST)) == 1
    assert [record.version for record in story.said] == [FIRST]


async def test_who_leaves_while_it_uploads_leaves_in_time_and_nothing_half_written(stories: list[Story]) -> None:
    (story,) = stories
    story.take(FIRST, 0)
    story.hold()
    uploading = asyncio.create_task(story.uploader.upload(FIRST, [0], None))
    await until(lambda: story.writing)
    uploading.cancel()
    await asyncio.wait([uploading])
    await asyncio.wait_for(story.remote.close(0.1), WITHIN_S)
    story.release()
    await story.remote.uploads.settle(10)
    assert not story.stored(FIRST)

"""What a job deletes of its storage: what retention lets go of its own, and nothing that anybody may still need."""

import dataclasses
from pathlib import Path

import pytest

from harness.records import JOB
from harness.storage.making import RUN, Making, blob_bytes, folders_of, make_checkpoint, make_unfinished
from holdfast.agent.librarian import Librarian
from holdfast.agent.remote_tier import RemoteTier
from holdfast.model.commands import CommitCheckpoint
from holdfast.model.records import CheckpointRef, CheckpointsRecord, UploadedBlob, Version
from holdfast_checkpoint.digest import digest_of
from holdfast_checkpoint.folders import blob_path, folder_of
from holdfast_checkpoint.remote import Repository

pytestmark = pytest.mark.asyncio
MAKING = Making()


class Story:
    """A job of run RUN that keeps the last `keep_last`, in the storage at `url`."""

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.url, self.listed = f"file://{folder}", tuple[CheckpointRef, ...]()
        spec = {"name": "small", "program": {"entry": "a:b"}, "steps": 9, "checkpoints": {"keep_last": keep_last}}
        job = dataclasses.replace(JOB, spec=spec, run=RUN, layer_names=tuple(MAKING.layers), layer_bytes=(8, 8, 8))
        self._librarian = Librarian(RemoteTier(repository=Repository(self.url)), job, self._write)

    async def commit(self, step: int, generation: int, *, useless: frozenset[str] = frozenset()) -> str:
        making = dataclasses.replace(MAKING, generation=generation)
        folder = make_unfinished(self.url, step, making)
        blobs = []
        for layer, name in enumerate(making.layers):
            digest = digest_of(blob_bytes(making, name, step))
            blobs.append(
                UploadedBlob(
                    layer=layer,
                    path=blob_path(layer),
                    size=digest.size,
                    chunk_bytes=digest.chunk_bytes,
                    chunks=digest.chunks,
                )
            )
        command = CommitCheckpoint(Version(step, generation), tuple(blobs), None, self.listed, useless)
        assert await self._librarian.commit(command)
        return folder

    @property
    def there(self) -> list[str]:
        return folders_of(self.url)

    async def _write(self, record: CheckpointsRecord) -> None:
        self.listed = record.committed


async def test_one_that_was_just_committed_stays_whatever_steps_others_are_of(tmp_path: Path) -> None:
    """The one before it turned out corrupt, and the job went back."""
    story = Story(tmp_path, keep_last=1)
    corrupt = await story.commit(113, 3)
    sound = await story.commit(106, 5, useless=frozenset({corrupt}))
    assert sound in story.there
    assert sound in [ref.folder for ref in story.listed]


async def test_one_of_no_use_takes_no_place(tmp_path: Path) -> None:
    story = Story(tmp_path, keep_last=2)
    good = await story.commit(80, 1)
    bad = await story.commit(90, 1)
    await story.commit(100, 1, useless=frozenset({bad}))
    assert good in story.there
    assert bad not in story.there


async def test_one_that_a_call_that_was_given_up_committed_takes_no_place_either(tmp_path: Path) -> None:
    story = Story(tmp_path, keep_last=2)
    good = await story.commit(80, 1)
    make_checkpoint(story.url, 90, MAKING)
    await story.commit(100, 1)
    assert good in story.there


@pytest.mark.parametrize("may_live", [True, False])
async def test_of_the_run_that_it_went_on_from_the_newest_stays_and_all_while_that_may_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_live: bool
) -> None:
    story = Story(tmp_path, keep_last=1)
    other = dataclasses.replace(MAKING, run="a" * 32)
    theirs = [make_checkpoint(story.url, step, other) for step in (80, 90, 100)]
    story.listed = tuple(CheckpointRef(version=Version(int(folder[:10]), 0), folder=folder) for folder in theirs)
    if not may_live:
        monkeypatch.setattr("holdfast.agent.librarian.time.time", lambda: 4e9)
    await story.commit(110, 1)
    left = theirs if may_live else theirs[-1:]
    assert [folder for folder in story.there if folder in theirs] == left
    assert folder_of(110, RUN, 1) in story.there

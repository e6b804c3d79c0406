"""Commits checkpoints for the agent that leads: the manifest, what retention lets go, and then the store's list.

Rule: the list names only what is committed, and loses a checkpoint before its blobs go.
"""

import asyncio
import datetime
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from holdfast import __version__
from holdfast.agent.remote_tier import RemoteTier
from holdfast.model.commands import CommitCheckpoint
from holdfast.model.records import CheckpointRef, CheckpointsRecord, JobRecord, UploadedBlob
from holdfast.spec import JobSpec
from holdfast_checkpoint.digest import Digest
from holdfast_checkpoint.errors import CheckpointError
from holdfast_checkpoint.folders import Found, folder_of
from holdfast_checkpoint.manifest import BlobEntry, Manifest
from holdfast_checkpoint.retention import Retention, being_read, expendable, garbage, left_to_others

T = TypeVar("T")
log = logging.getLogger(__name__)
# One that is not over by then hangs: to list, or to delete a folder.
_CALL_S = 300.0
# The same, to write a manifest and read it back: no start from before that checkpoint is made meanwhile. The repository
# tries again for a minute.
_COMMIT_S = 75.0
# After the storage did not take a manifest, for all its retries.
_AGAIN_S = 5.0


class Librarian:
    """One a term of leading. `write` puts the list into the store, fenced."""

    def __init__(
        self, remote: RemoteTier, job: JobRecord, write: Callable[[CheckpointsRecord], Awaitable[None]]
    ) -> None:
        self._remote, self._job, self._write = remote, job, write
        settings = JobSpec.model_validate(job.spec).checkpoints
        self._retention = Retention(keep_last=settings.keep_last, keep_every=settings.keep_every)
        self._one_at_a_time = asyncio.Lock()
        self._listed: tuple[CheckpointRef, ...] | None = None  # as it was written last

    async def commit(self, command: CommitCheckpoint) -> bool:
        """False if the storage did not take it; then a while has passed."""
        folder = folder_of(command.version.step, self._job.run, command.version.generation)
        async with self._one_at_a_time:
            try:
                commit = partial(self._remote.repository.commit, folder, self._manifest(command))
                await self._remote.commits.call(commit, _COMMIT_S)
            except CheckpointError as error:
                log.error("checkpoint.not_committed", extra={"step": command.version.step, "error": str(error)})
                await asyncio.sleep(_AGAIN_S)
                return False
            log.info("checkpoint.committed", extra={"step": command.version.step, "folder": folder})
            before = command.committed if self._listed is None else self._listed
            known = (ref for ref in before if ref.folder != folder)
            await self._list((*known, CheckpointRef(version=command.version, folder=folder)))
            await self._tidy(command, folder)
            return True

    async def _list(self, listed: tuple[CheckpointRef, ...]) -> None:
        await self._write(CheckpointsRecord(committed=listed))
        self._listed = listed

    async def _tidy(self, command: CommitCheckpoint, newest: str) -> None:
        """What retention lets go, and what was begun long ago and never committed; never the `newest`. A storage that
        fails here is tried again after the next checkpoint."""
        try:
            listed = self._listed or ()
            leaving = self._leaving(await self._call(self._remote.repository.list), listed, command, newest)
            kept = tuple(ref for ref in listed if ref.folder not in leaving)
            if len(kept) < len(listed):
                await self._list(kept)
            for folder in leaving:
                log.info("checkpoint.deleting", extra={"folder": folder})
                await self._call(partial(self._remote.repository.delete, folder))
        except CheckpointError as error:
            log.warning("checkpoint.not_tidied", extra={"error": str(error)})

    async def _call(self, work: Callable[[], T]) -> T:
        """For what no start waits for. Raises: as `work`; StorageBusyError: it hangs."""
        return await self._remote.commits.call(work, _CALL_S)

    def _leaving(
        self, found: Sequence[Found], listed: Sequence[CheckpointRef], command: CommitCheckpoint, newest: str
    ) -> tuple[str, ...]:
        run, now_s, known = self._job.run, time.time(), {ref.folder for ref in listed}
        used = {newest, command.in_use, *being_read(found, now_s)}
        used |= left_to_others(found, self._retention, now_s=now_s, run=run)
        # Of other runs only what this one went on from: the rest is somebody else's.
        mine = [one for one in found if one.run == run or one.folder in known]
        # One that is not listed was committed by a call that was given up.
        bad = command.useless | {one.folder for one in mine if one.folder not in known}
        old = expendable(mine, self._retention, run=run, in_use=used, bad=bad)
        return (*old, *garbage(mine, self._retention, now_s=now_s, run=run, in_use=used))

    def _manifest(self, command: CommitCheckpoint) -> Manifest:
        job, version = self._job, command.version
        return Manifest(
            step=version.step,
            generation=version.generation,
            run=job.run,
            job=str(job.spec["name"]),
            samples=version.step * job.global_batch,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            identity=job.identity,
            spec=job.spec,
            blobs=tuple(_entry(blob, job.layer_names[blob.layer]) for blob in command.blobs),
            loss=command.loss,
            versions={"holdfast": __version__, **dict(job.versions)},
        )


def _entry(blob: UploadedBlob, name: str) -> BlobEntry:
    digest = Digest(size=blob.size, chunks=blob.chunks, chunk_bytes=blob.chunk_bytes)
    return BlobEntry(layer=blob.layer, name=name, path=blob.path, digest=digest)

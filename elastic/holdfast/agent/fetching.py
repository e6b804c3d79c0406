"""Brings the layers that a start wants restored into this node's RAM, each from its nearest sound copy.

Own RAM first, then the peers that the start names, then the checkpoint. Every copy is verified before a worker sees it;
one that is corrupt is named, counted and forgotten, and the next one used.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import aiohttp

from holdfast.errors import HoldfastError
from holdfast.model.ids import NodeId
from holdfast.model.records import Restore, StartRecord, Version
from holdfast_checkpoint.digest import Digest
from holdfast_checkpoint.errors import CheckpointError, CorruptError, NoCheckpointError, StorageError
from holdfast_checkpoint.manifest import BlobEntry, Manifest
from holdfast_checkpoint.ram import FETCHED, Copy, Incoming, RamTier
from holdfast_checkpoint.remote import Repository

log = logging.getLogger(__name__)
CHECKPOINT = "checkpoint"
_AT_ONCE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """`source`: a node, or "checkpoint"."""

    restore: Restore
    copy: Copy
    source: str


class LostCopiesError(HoldfastError):
    """No copy of a layer that was counted on is sound, or to be had. `unsound`: the checkpoint that turned out so."""

    def __init__(self, message: str, *, unsound: str) -> None:
        super().__init__(message)
        self.unsound = unsound


@dataclass(slots=True)
class Fetching:
    """Of one start on one node. `pull(node, layer, version)` brings a peer's copy, verified."""

    node: NodeId
    start: StartRecord
    ram: RamTier
    repository: Repository | None
    pull: Callable[[NodeId, int, Version], Awaitable[Copy]]
    on_corrupt: Callable[[str], None]  # of each copy that is not what was written: where it was
    _at_once: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))
    _manifest: Manifest | None = None
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self, on_fetched: Callable[[Fetched], None]) -> None:
        """All that this node's slots lack; what is whole stays here, also where something else cannot be had.

        Raises: an ExceptionGroup of LostCopiesError, once all was tried.
        """
        # Two slots of one node may want the same layer: it is fetched once.
        wanted: dict[int, list[Restore]] = {}
        for restore in self.start.restores:
            if restore.target.node == self.node:
                wanted.setdefault(restore.layer, []).append(restore)
        work = (self._hand_over(restores, on_fetched) for restores in wanted.values())
        ended = await asyncio.gather(*work, return_exceptions=True)
        failed = [error for error in ended if isinstance(error, Exception)]
        if failed:
            raise ExceptionGroup("not all layers can be restored", failed)

    async def _hand_over(self, restores: Sequence[Restore], on_fetched: Callable[[Fetched], None]) -> None:
        copy, source = await self._fetch(restores[0])
        for restore in restores:
            on_fetched(Fetched(restore=restore, copy=copy, source=source))

    async def _fetch(self, restore: Restore) -> tuple[Copy, str]:
        async with self._at_once:
            found = await self._from_here(restore.layer)
            if found is not None:
                return found, str(self.node)
            tried, unsound = [], ""
            for node in restore.sources:
                if node == self.node:
                    continue
                try:
                    return await self.pull(node, restore.layer, self.start.version), str(node)
                except (CheckpointError, HoldfastError, OSError, aiohttp.ClientError) as error:
                    self._failed(node, restore.layer, error)
                    tried.append(f"{node}: {error}")
            if self.start.checkpoint and self.repository is not None:
                try:
                    return await self._from_checkpoint(self.repository, restore.layer), CHECKPOINT
                except (CheckpointError, OSError) as error:
                    self._failed(CHECKPOINT, restore.layer, error)
                    tried.append(str(error))
                    # A storage that does not answer says nothing about what it holds.
                    unsound = "" if isinstance(error, StorageError | OSError) else self.start.checkpoint
        step = self.start.version.step
        raise LostCopiesError(
            f"layer {restore.layer} of step {step} cannot be restored: {'; '.join(tried) or 'gone'}", unsound=unsound
        )

    async def _from_here(self, layer: int) -> Copy | None:
        version = self.start.version
        for copy in self.ram.find(layer, version.step, version.generation):
            try:
                await asyncio.to_thread(self.ram.verify, copy)
            except (CheckpointError, OSError) as error:
                self._failed(copy.kind, layer, error)
                self.ram.drop(copy)
            else:
                return copy
        return None

    async def _from_checkpoint(self, repository: Repository, layer: int) -> Copy:
        folder, version = self.start.checkpoint, self.start.version
        async with self._reading:
            if self._manifest is None:
                self._manifest = await asyncio.to_thread(repository.read_manifest, folder)
        entry = next((blob for blob in self._manifest.blobs if blob.layer == layer), None)
        if entry is None:
            raise NoCheckpointError(f"{repository.url}/{folder} has no layer {layer}")
        digest: Digest = entry.digest
        incoming = self.ram.new_buffer(layer, version.step, version.generation, digest.size, FETCHED)
        try:
            await asyncio.to_thread(_read_checkpoint, repository, folder, entry, incoming)
        except BaseException:
            incoming.discard()
            raise
        return incoming.commit(digest)

    def _failed(self, where: str, layer: int, error: Exception) -> None:
        is_corrupt = isinstance(error, CorruptError)
        event = "restore.corrupt" if is_corrupt else "restore.missed"
        log.error(event, extra={"source": where, "layer": layer, "error": str(error)})
        if is_corrupt:
            self.on_corrupt(where)


def _read_checkpoint(repository: Repository, folder: str, entry: BlobEntry, incoming: Incoming) -> None:
    incoming.reserve()
    repository.read_blob_into(folder, entry, incoming.memory)

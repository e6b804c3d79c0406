"""Brings the layers that a start wants restored into this node's RAM, each from its nearest sound copy.

Own RAM first, then the peers that the start names, then the checkpoint, which one node reads for all that want the same
layer. Every copy is verified before a worker sees it; one that is corrupt is named, counted and forgotten, and the next
one used.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp

from holdfast.agent.checkpoint_reading import CheckpointReader
from holdfast.agent.relaying import asked
from holdfast.errors import HoldfastError
from holdfast.model.ids import NodeId
from holdfast.model.messages import CHECKPOINT
from holdfast.model.records import Restore, StartRecord, Version
from holdfast_checkpoint.errors import CheckpointError, CorruptError, StorageError
from holdfast_checkpoint.ram import Copy, RamTier

log = logging.getLogger(__name__)
_AT_ONCE = 4
_PEERS_ERRORS = (CheckpointError, HoldfastError, OSError, aiohttp.ClientError)


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
    """Of one start on one node. `pull(node, layer, version, generation)` brings a peer's copy, verified; with a
    generation, also one that the peer has still to fetch itself for that start. `lines`: `relaying.lines`."""

    node: NodeId
    start: StartRecord
    ram: RamTier
    reader: CheckpointReader | None
    lines: Mapping[int, Sequence[NodeId]]
    pull: Callable[[NodeId, int, Version, int | None], Awaitable[Copy]]
    on_corrupt: Callable[[str], None]  # of each copy elsewhere that is not what was written: where it was
    on_spoilt: Callable[[Copy], None]  # of each one here; it is dropped
    on_ended: Callable[[int], None]  # a layer is here, or is not to be had
    _at_once: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

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
        try:
            copy, source = await self._fetch(restores[0])
        finally:
            self.on_ended(restores[0].layer)
        for restore in restores:
            on_fetched(Fetched(restore=restore, copy=copy, source=source))

    async def _fetch(self, restore: Restore) -> tuple[Copy, str]:
        layer, tried = restore.layer, list[str]()
        async with self._at_once:
            found = await self._from_here(layer)
            if found is not None:
                return found, str(self.node)
            for node in restore.sources:
                if node == self.node:
                    continue
                if (copy := await self._from_peer(node, layer, None, tried)) is not None:
                    return copy, str(node)
        # Without holding up others: what one node waits for another may still have to read.
        for node in self._readers(restore):
            if (copy := await self._from_peer(node, layer, self.start.generation, tried)) is not None:
                return copy, str(node)
        unsound = ""
        if self.reader is not None:
            try:
                return await self.reader.read(layer), CHECKPOINT
            except (CheckpointError, OSError) as error:
                self._failed(CHECKPOINT, layer, error)
                tried.append(str(error))
                # A storage that does not answer says nothing about what it holds.
                unsound = "" if isinstance(error, StorageError | OSError) else self.start.checkpoint
        step = self.start.version.step
        raise LostCopiesError(
            f"layer {layer} of step {step} cannot be restored: {'; '.join(tried) or 'gone'}", unsound=unsound
        )

    def _readers(self, restore: Restore) -> Iterator[NodeId]:
        line = self.lines.get(restore.layer, ()) if not restore.sources else ()
        if self.node in line:
            yield from asked(line, self.node)

    async def _from_peer(self, node: NodeId, layer: int, generation: int | None, tried: list[str]) -> Copy | None:
        try:
            return await self.pull(node, layer, self.start.version, generation)
        except _PEERS_ERRORS as error:
            self._failed(node, layer, error)
            tried.append(f"{node}: {error}")
            return None

    async def _from_here(self, layer: int) -> Copy | None:
        version = self.start.version
        for copy in self.ram.find(layer, version.step, version.generation):
            try:
                await asyncio.to_thread(self.ram.verify, copy)
            except (CheckpointError, OSError) as error:
                _log(copy.kind, layer, error)
                self.ram.drop(copy)
                if isinstance(error, CorruptError):
                    self.on_spoilt(copy)
            else:
                return copy
        return None

    def _failed(self, where: str, layer: int, error: Exception) -> None:
        _log(where, layer, error)
        if isinstance(error, CorruptError):
            self.on_corrupt(where)


def _log(where: str, layer: int, error: Exception) -> None:
    event = "restore.corrupt" if isinstance(error, CorruptError) else "restore.missed"
    log.error(event, extra={"source": where, "layer": layer, "error": str(error)})

"""Writes this node's share of a checkpoint to remote storage, from RAM; training goes on meanwhile.

One checkpoint at a time: the next one begins only once every rank's upload is over (the workers see to that in their
votes), so a slow storage makes checkpoints rarer and never piles them up. An upload that takes too long is given up,
and the next checkpoint tries anew; calls that hang keep the few threads for uploads at most, and the copies that these
read. Where all of them hang, each further upload ends with nothing written when its time is over, until one is let go.
"""

import asyncio
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial

from holdfast.agent.remote_tier import RemoteTier
from holdfast.model.ids import NodeId
from holdfast.model.records import UploadedBlob, UploadRecord, Version
from holdfast_checkpoint.errors import CheckpointError, CorruptError, StorageError
from holdfast_checkpoint.folders import folder_of
from holdfast_checkpoint.ram import Copy, RamTier

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """One call of `Uploader.upload`."""

    version: Version
    until_s: float
    given_up: threading.Event = field(default_factory=threading.Event)  # or over


class Uploader:
    """One an agent. `say` hears of everything that is written so far of a version."""

    def __init__(
        self,
        remote: RemoteTier,
        run: str,
        node: NodeId,
        ram: RamTier,
        say: Callable[[UploadRecord], None],
        on_spoilt: Callable[[Copy], None],
        give_up_s: float,
    ) -> None:
        """`on_spoilt`: a copy turned out corrupt, and was dropped. `give_up_s`: how long one upload may take."""
        self._remote, self._run, self._node, self._ram, self._say = remote, run, node, ram, say
        self._on_spoilt, self._give_up_s = on_spoilt, give_up_s
        self._version: Version | None = None
        self._loss: float | None = None
        self._written: dict[int, UploadedBlob] = {}
        self._turns: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def upload(self, version: Version, layers: Collection[int], loss: float | None) -> None:
        """Write those of `layers` that are not written yet. Returns when that came to an end, good or bad, and at the
        latest when its time is over."""
        if self._version is None or self._version.age < version.age:
            self._version, self._loss, self._written = version, None, {}
            self._turns.clear()
        if version != self._version:
            return
        self._loss = loss if loss is not None else self._loss
        attempt = _Attempt(version=version, until_s=time.monotonic() + self._give_up_s)
        try:
            await self._write_all(attempt, layers)
        finally:
            attempt.given_up.set()

    async def _write_all(self, attempt: _Attempt, layers: Collection[int]) -> None:
        begun_s, version = time.monotonic(), attempt.version
        written = await asyncio.gather(*(self._write_once(attempt, layer) for layer in sorted(layers)))
        if version == self._version and any(written):
            log.info(
                "checkpoint.share_written",
                extra={
                    "step": version.step,
                    "layers": sum(blob is not None for blob in written),
                    "bytes": sum(blob.size for blob in written if blob is not None),
                    "seconds": round(time.monotonic() - begun_s, 3),
                },
            )
            self._tell()

    async def _write_once(self, attempt: _Attempt, layer: int) -> UploadedBlob | None:
        """Two that ask for one layer: the second writes what the first could not."""
        async with self._turns[layer]:
            if attempt.version == self._version and layer in self._written:
                return self._written[layer]
            return await self._write(attempt, layer)

    def _tell(self) -> None:
        assert self._version is not None
        blobs = tuple(self._written[layer] for layer in sorted(self._written))
        self._say(UploadRecord(node=self._node, version=self._version, loss=self._loss, blobs=blobs))

    async def _write(self, attempt: _Attempt, layer: int) -> UploadedBlob | None:
        """None, and a line in the log, if no copy could be written: the checkpoint stays unfinished."""
        version = attempt.version
        folder = folder_of(version.step, self._run, version.generation)
        for copy in self._ram.find(layer, version.step, version.generation):
            left_s = max(0.0, attempt.until_s - time.monotonic())
            try:
                path = await self._remote.uploads.call(partial(self._put, folder, copy, attempt.given_up), left_s)
            except (CheckpointError, OSError) as error:
                extra = {"step": version.step, "layer": layer, "error": str(error)}
                log.error("checkpoint.upload_failed", extra=extra)
                if isinstance(error, StorageError):
                    break  # not the copy's fault: another one would fare no better
                if isinstance(error, CorruptError):
                    self._ram.drop(copy)
                    self._on_spoilt(copy)
                continue
            blob = _uploaded(copy, path)
            if version == self._version:
                self._written[layer] = blob
            return blob
        return None

    def _put(self, folder: str, copy: Copy, given_up: threading.Event) -> str:
        """On a thread. What is corrupt in RAM is not written: its checksum would only be found wrong later."""
        self._ram.verify(copy)
        with copy.file.hold():
            return self._remote.repository.put_blob(folder, copy.layer, copy.file.path, copy.digest, given_up)


def _uploaded(copy: Copy, path: str) -> UploadedBlob:
    digest = copy.digest
    return UploadedBlob(
        layer=copy.layer, path=path, size=digest.size, chunk_bytes=digest.chunk_bytes, chunks=digest.chunks
    )

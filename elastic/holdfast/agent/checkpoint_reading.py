"""Reads layers of one checkpoint into this node's RAM, and waits for a storage that is away.

A storage that fails, refuses or does not answer says nothing about what lies there: it is asked again, for as long as
the job allows, and meanwhile the coordinator is told what the start waits for. What it does answer counts at once.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from holdfast.agent.remote_tier import RemoteTier
from holdfast.model.records import Version
from holdfast_checkpoint.errors import NoCheckpointError, StorageBusyError, StorageError
from holdfast_checkpoint.manifest import BlobEntry, Manifest
from holdfast_checkpoint.ram import Copy, RamTier
from holdfast_checkpoint.retention import READING_S
from holdfast_checkpoint.sparing import FETCHED

T = TypeVar("T")
log = logging.getLogger(__name__)
_AT_ONCE = 4
_APART_S = 60.0  # what generations of one outage are not
_AGAIN_S = 2.0
# A call that is not over by then hangs. No storage that is worth waiting for is slower than that.
_CALL_S, _BYTES_A_SECOND = 120.0, 5e6
_SAY_READING_S, _SAY_WITHIN_S = READING_S / 10, 10.0


class Absence:
    """Whether the storage is away, as the restores of one agent see it, over however many generations."""

    def __init__(self, away_s: float, say_after_s: float, say: Callable[[str], None]) -> None:
        """`away_s`: for so long it is waited for. `say_after_s`: what is not there after so long counts as waited for.
        `say` hears why; of nothing any more: the empty text."""
        self.say_after_s = say_after_s
        self._away_s, self._say = away_s, say
        self._since_s: float | None = None  # the first failure of this outage
        self._asking, self._left_s = set[object](), -math.inf
        self._waiting: dict[object, str] = {}

    def asks(self, who: object) -> None:
        """`who`: a call of its own. After a while without any, an outage that no call saw the end of is over."""
        if not self._asking and time.monotonic() - self._left_s > _APART_S:
            self._since_s = None
        self._asking.add(who)

    def waits(self, who: object, why: str) -> None:
        first = not self._waiting
        self._waiting[who] = why
        if first:
            log.warning("restore.waits", extra={"why": why})
            self._say(why)

    def goes_on(self, who: object) -> None:
        """It waits no more: it has what it wants, or nobody does any more."""
        self._asking.discard(who)
        self._left_s = time.monotonic()
        if self._waiting.pop(who, None) is not None and not self._waiting:
            self._say("")

    def failed(self) -> bool:
        """A call failed. Whether it is to be tried again."""
        now_s = time.monotonic()
        self._since_s = now_s if self._since_s is None else self._since_s
        return now_s - self._since_s < self._away_s

    def answered(self) -> None:
        self._since_s = None


class _AwayError(Exception):
    """Raised from what the storage did."""


class CheckpointReader:
    """Of one start on one node."""

    def __init__(self, remote: RemoteTier, folder: str, version: Version, ram: RamTier, absence: Absence) -> None:
        self._remote, self._folder, self._version, self._ram = remote, folder, version, ram
        self._absence = absence
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._reading = asyncio.Lock()
        self._manifest: Manifest | None = None
        self._said_s: float | None = None  # when it last said that it reads

    async def read(self, layer: int) -> Copy:
        """Verified.

        Raises:
            StorageError: the storage was away for too long, or there is no room in RAM.
            CheckpointError: there is no sound copy of the layer in this checkpoint.
        """
        async with self._turns:
            entry = await self._patiently(partial(self._entry, layer))
            await self._say_reading()
            return await self._patiently(partial(self._read, entry))

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        me, absence = object(), self._absence
        why = f"{self._remote.repository.url} has not answered for {absence.say_after_s:g} s"
        absence.asks(me)
        timer = asyncio.get_running_loop().call_later(absence.say_after_s, absence.waits, me, why)
        try:
            while True:
                try:
                    result = await attempt()
                except _AwayError as away:
                    error = away.__cause__
                    assert isinstance(error, StorageError), error
                    if not absence.failed():
                        raise error from away
                    absence.waits(me, str(error))
                    await asyncio.sleep(_AGAIN_S)
                else:
                    absence.answered()
                    return result
        finally:
            timer.cancel()
            absence.goes_on(me)

    async def _entry(self, layer: int) -> BlobEntry:
        repository = self._remote.repository
        async with self._reading:
            if self._manifest is None:
                self._manifest = await self._ask(self._read_manifest, _CALL_S)
        entry = next((blob for blob in self._manifest.blobs if blob.layer == layer), None)
        if entry is None:
            raise NoCheckpointError(f"{repository.url}/{self._folder} has no layer {layer}")
        return entry

    def _read_manifest(self) -> Manifest:
        repository = self._remote.repository
        try:
            return repository.read_manifest(self._folder)
        except NoCheckpointError as error:
            # A machine that does not see the storage at all must not condemn what the others see.
            if not any(one.is_committed for one in repository.list()):
                raise StorageBusyError(
                    f"{repository.url} has no checkpoint at all, as this machine sees it; is it mounted?"
                ) from error
            raise

    async def _say_reading(self) -> None:
        """So that nobody deletes what is being read. One who may not write reads all the same."""
        now_s = time.monotonic()
        if self._said_s is not None and now_s - self._said_s < _SAY_READING_S:
            return
        self._said_s = now_s
        try:
            await self._remote.restores.call(partial(self._remote.repository.say_reading, self._folder), _SAY_WITHIN_S)
        except StorageError as error:
            log.info("restore.not_said", extra={"folder": self._folder, "error": str(error)})

    async def _read(self, entry: BlobEntry) -> Copy:
        # New memory for each try: a call that was given up may still write to what it was given.
        version = self._version
        incoming = self._ram.new_buffer(entry.layer, version.step, version.generation, entry.size, FETCHED)
        try:
            await asyncio.to_thread(incoming.reserve)
            work = partial(self._remote.repository.read_blob_into, self._folder, entry, incoming.memory)
            await self._ask(work, _CALL_S + entry.size / _BYTES_A_SECOND)
            return incoming.commit(entry.digest)
        except BaseException:
            incoming.discard()
            raise

    async def _ask(self, work: Callable[[], T], within_s: float) -> T:
        """Raises: _AwayError: it did not answer, or something of its own."""
        try:
            return await self._remote.restores.call(work, within_s)
        except StorageError as error:
            raise _AwayError from error

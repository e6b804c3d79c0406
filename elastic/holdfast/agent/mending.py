"""Puts right what stands in the store and cannot be read: by whom it was written is unknown, what stood there is not.

Whoever sees a broken record puts back the last good one it knows, on the lease that one hung on, unless somebody wrote
in the meantime. Where nothing good ever stood, or its lease is gone, the key is deleted, as it would be without the
break. The agent that leads, or whose own the key is, goes first; the others give it a moment.
"""

import asyncio
import logging
import random
from collections.abc import Callable

from holdfast.agent.following import StoreTrouble
from holdfast.errors import LeaseExpiredError, ProtocolError, StoreError, StoreUnavailableError
from holdfast.model.claim import ClaimRecord
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.model.measured import PaceRecord
from holdfast.model.records import (
    CheckpointsRecord,
    DrainRecord,
    FailureRecord,
    GenerationRecord,
    JobRecord,
    LeaderRecord,
    NodeAck,
    NodeRecord,
    OutcomeRecord,
    PardonRecord,
    ProgressRecord,
    ReachRecord,
    StartRecord,
    StopRecord,
    SuspectRecord,
    UploadRecord,
)
from holdfast.model.wire import decode
from holdfast.ports.store import Compare, Delete, KeyValue, Operation, Put, Store

log = logging.getLogger(__name__)
KINDS: dict[str, type] = {
    "spec": JobRecord,
    "leader": LeaderRecord,
    "generation": GenerationRecord,
    "start": StartRecord,
    "outcome": OutcomeRecord,
    "failure": FailureRecord,
    "stop": StopRecord,
    "progress": ProgressRecord,
    "nodes": NodeRecord,
    "claims": ClaimRecord,
    "drains": DrainRecord,
    "reach": ReachRecord,
    "pardons": PardonRecord,
    "acks": NodeAck,
    "suspects": SuspectRecord,
    "uploads": UploadRecord,
    "paces": PaceRecord,
    "checkpoints": CheckpointsRecord,
}
# Superseded by what is said next, and too many to keep those of others.
_KEPT_OF_OWN = ("acks", "suspects", "uploads", "paces")
_GIVEN_S = (0.5, 1.5)
_REFUSED_S = 5.0


class Mender:
    """One an agent; `see` is told of every change of the job's keys, in order."""

    def __init__(self, store: Store, keys: Keys, node: NodeId, leads: Callable[[], bool]) -> None:
        self._store, self._keys, self._node, self._leads = store, keys, node, leads
        self._good: dict[str, KeyValue] = {}
        self._broken: dict[str, KeyValue] = {}
        self._never_good: dict[str, int] = {}  # the version up to which nothing that stood there could be read
        self._more = asyncio.Event()
        self._trouble = StoreTrouble("mend")

    def see(self, key: str, kv: KeyValue | None) -> bool:
        """Whether it can be read; what cannot is as if it had not been written."""
        self._broken.pop(key, None)
        before = self._never_good.pop(key, 0)
        if kv is None:
            self._good.pop(key, None)
            return True
        kind = key.removeprefix(self._keys.prefix).partition("/")[0]
        if kind not in KINDS:
            return True
        try:
            decode(KINDS[kind], kv.value)
        except ProtocolError as error:
            log.error("store.malformed", extra={"key": key, "error": str(error)})
            self._broken[key] = kv
            if kv.version == before + 1:
                self._never_good[key] = kv.version
            self._more.set()
            return False
        if kind not in _KEPT_OF_OWN or self._is_own(key):
            self._good[key] = kv
        return True

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._more.wait()
            self._more.clear()
            for key in sorted(self._broken):
                if not (self._leads() or self._is_own(key)):
                    await asyncio.sleep(random.uniform(*_GIVEN_S))
                broken = self._broken.get(key)
                if broken is not None:
                    await self._mend(broken)

    async def _mend(self, broken: KeyValue) -> None:
        good = self._good.get(broken.key)
        if good is None and self._never_good.get(broken.key) != broken.version:
            log.error("store.not_mended", extra={"key": broken.key})  # who knew what stood there may be about to do it
            return
        try:
            if good is None or not await self._put_back(good, broken):
                await self._write(broken, Delete(key=broken.key))
        except ValueError as error:  # the store can never take it
            log.error("store.not_mended", extra={"key": broken.key, "error": str(error)})
        except StoreError as error:
            self._trouble.say(error)
            await asyncio.sleep(_GIVEN_S[0] if isinstance(error, StoreUnavailableError) else _REFUSED_S)
            self._more.set()

    async def _put_back(self, good: KeyValue, broken: KeyValue) -> bool:
        """False if what it hung on is gone."""
        try:
            await self._write(broken, Put(key=good.key, value=good.value, lease=good.lease))
        except LeaseExpiredError:
            return False
        return True

    async def _write(self, broken: KeyValue, operation: Operation) -> None:
        same = Compare(key=broken.key, mod_revision=broken.mod_revision)
        if (await self._store.transact([same], [operation])).succeeded:
            log.warning("store.mended", extra={"key": broken.key, "deleted": isinstance(operation, Delete)})

    def _is_own(self, key: str) -> bool:
        return key.endswith(f"/{self._node}")

"""Follows the store's content: who is there, how far the job is, how it ended."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from holdfast.errors import CompactedError, ProtocolError, StoreUnavailableError
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.model.records import NodeRecord, OutcomeRecord, ProgressRecord
from holdfast.model.wire import decode
from holdfast.ports.store import Store

log = logging.getLogger(__name__)
_PAUSE_S = 0.5


class Follower:
    """Sees every change of the job's keys, in order, and hands each on."""

    def __init__(
        self,
        keys: Keys,
        on_node: Callable[[NodeId, NodeRecord | None], None],
        on_step: Callable[[int], None],
        on_change: Callable[[str, bytes | None], None],
    ) -> None:
        self._keys = keys
        self._on_node, self._on_step, self._on_change = on_node, on_step, on_change
        self.step = 0
        self.outcome: OutcomeRecord | None = None
        self.ended = asyncio.Event()

    async def run(self, store: Store) -> None:
        """For ever."""
        async for key, value in changes_of(store, self._keys.prefix):
            try:
                self._see(key, value)
            except ProtocolError as error:
                log.error("launcher.malformed", extra={"key": key, "error": str(error)})

    def _see(self, key: str, value: bytes | None) -> None:
        self._on_change(key, value)
        kind, _, rest = key.removeprefix(self._keys.prefix).partition("/")
        if kind == "nodes":
            self._on_node(NodeId(rest), decode(NodeRecord, value) if value is not None else None)
        elif value is None:
            return
        elif kind == "progress":
            self.step = max(self.step, decode(ProgressRecord, value).commits[-1].step)
            self._on_step(self.step)
        elif kind == "outcome":
            self.outcome = decode(OutcomeRecord, value)
            self.ended.set()


async def changes_of(store: Store, prefix: str) -> AsyncIterator[tuple[str, bytes | None]]:
    """What stands under `prefix`, oldest first, then every change; None for a key that is gone.

    For ever: it waits for a store that is away, and where history was dropped meanwhile it tells again what stands,
    and what is gone.
    """
    known: set[str] = set()
    while True:
        try:
            snapshot = await store.get_prefix(prefix)
            gone = known - {kv.key for kv in snapshot.kvs}
            known = {kv.key for kv in snapshot.kvs}
            for key in sorted(gone):
                yield key, None
            for kv in sorted(snapshot.kvs, key=lambda kv: kv.mod_revision):
                yield kv.key, kv.value
            async for changes in store.watch(prefix, snapshot.revision + 1):
                for change in changes:
                    key = change.kv.key
                    (known.add if change.kind == "put" else known.discard)(key)
                    yield key, change.kv.value if change.kind == "put" else None
        except CompactedError:
            log.info("watch.read_again")
        except StoreUnavailableError as error:
            log.warning("watch.store_unavailable", extra={"error": str(error)})
            await asyncio.sleep(_PAUSE_S)

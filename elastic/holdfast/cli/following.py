"""Follows the store's content: who is there, how far the job is, how it ended."""

import asyncio
import logging
from collections.abc import Callable

from holdfast.errors import ProtocolError
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.model.records import NodeRecord, OutcomeRecord, ProgressRecord
from holdfast.model.wire import decode
from holdfast.ports.store import Store
from holdfast.stores.changes import changes_of

log = logging.getLogger(__name__)


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
        async for changes in changes_of(store, self._keys.prefix):
            for key, value in changes:
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

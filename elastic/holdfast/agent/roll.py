"""What agents that keep for scripts say now, and which of them answer: asked once for all scripts that want to know."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping

from holdfast.agent.peers import Peers
from holdfast.agent.probing import Verdict, probe
from holdfast.model.ids import NodeId
from holdfast.model.keeping import KeeperRecord

_PROBE_S = 1.0
# All ranks of a machine begin to load at about the same time.
_ANSWERED_S = 2.0


class Roll:
    """One an agent, on its event loop."""

    def __init__(
        self,
        node: NodeId,
        peers: Peers,
        read: Callable[[], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`read`: have `see` called with what all agents have written until now."""
        self._node, self._peers, self._read, self._clock = node, peers, read, clock
        self._said: Mapping[str, KeeperRecord] = {}  # by incarnation, as all that follows
        self._silent: frozenset[str] = frozenset()
        self._asked_s: dict[str, float] = {}
        self._reading, self._asking = asyncio.Lock(), asyncio.Lock()
        self._reads = 0

    def see(self, records: Iterable[KeeperRecord]) -> None:
        """The records of all agents that live. Who has written anew since is not silent, whatever a probe said."""
        said = {record.agent.incarnation: record for record in records}
        self._silent = frozenset(one for one in self._silent if one in said and said[one] is self._said.get(one))
        self._asked_s = {one: at_s for one, at_s in self._asked_s.items() if one in said}
        self._said = said

    async def refresh(self) -> None:
        """All that was written until this is called is seen. One reading serves all who ask before it begins."""
        reads = self._reads
        async with self._reading:
            if self._reads == reads:
                self._reads += 1
                await self._read()

    async def call(self) -> None:
        """Ask the others whether they live, but those that were asked a moment ago."""
        async with self._asking:
            due_s = self._clock() - _ANSWERED_S
            others = [
                record
                for one, record in self._said.items()
                if record.node != self._node and self._asked_s.get(one, due_s) <= due_s
            ]
            # `Peers` has so many at once on their way as it can bear.
            answered = await asyncio.gather(*(self._is_alive(record) for record in others))
            self._note(dict(zip((record.agent.incarnation for record in others), answered, strict=True)), others)

    def answering(self, records: Iterable[KeeperRecord]) -> list[KeeperRecord]:
        """Without those that did not answer when they were asked last."""
        return [record for record in records if record.agent.incarnation not in self._silent]

    async def _is_alive(self, record: KeeperRecord) -> bool:
        agent = record.agent
        verdict, _ = await probe(self._peers, agent.host, agent.port, agent.incarnation, _PROBE_S)
        return verdict == Verdict.ALIVE

    def _note(self, answered: Mapping[str, bool], asked: Iterable[KeeperRecord]) -> None:
        now_s = self._clock()
        # Who has written meanwhile lives.
        silent = {
            one for record in asked if not answered[one := record.agent.incarnation] and self._said.get(one) is record
        }
        self._silent = (self._silent - answered.keys()) | silent
        self._asked_s |= {one: now_s for one in answered if one in self._said}

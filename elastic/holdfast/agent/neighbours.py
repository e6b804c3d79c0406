"""The other nodes as the store shows them, and whether their agents answer."""

import asyncio
from collections.abc import Callable, Iterable

from holdfast.agent.contact import hold_contact
from holdfast.agent.leading import evict
from holdfast.agent.peers import Peers
from holdfast.agent.probing import Verdict, probe
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.model.records import LeaderRecord, NodeRecord
from holdfast.model.wire import decode
from holdfast.ports.store import KeyValue, Store

_CONTACT_PAUSE_S = 0.2  # between attempts to reach a leader that does not take the connection


class Neighbours:
    """`see` is told of the leader's key and of all nodes'."""

    def __init__(
        self, store: Store, keys: Keys, node: NodeId, peers: Peers, probe_s: float, lease_ttl_s: float
    ) -> None:
        self._store, self._keys, self._node, self._peers = store, keys, node, peers
        self._probe_s, self._lease_ttl_s = probe_s, lease_ttl_s
        self._held: dict[str, KeyValue] = {}
        self._changed = asyncio.Event()

    def see(self, key: str, kv: KeyValue | None) -> None:
        self._changed.set()
        if kv is not None:
            self._held[key] = kv
        else:
            self._held.pop(key, None)

    def record(self, node: NodeId) -> NodeRecord | None:
        held = self._held.get(self._keys.node(node))
        return decode(NodeRecord, held.value) if held is not None else None

    async def probe_leader(self) -> Verdict | None:
        """Who lost contact with a peer asks after the leader: nobody else would, if it is the leader that died. One
        whose port refuses is evicted; None where no other node is known to lead."""
        known = self._other_leader()
        if known is None:
            return None
        held, record = known
        verdict, _ = await probe(self._peers, record.host, record.port, record.incarnation, self._probe_s)
        if verdict is Verdict.REFUSED:
            await evict(self._store, held, "the coordinating agent is gone")
        return verdict

    async def silent(self, nodes: Iterable[NodeId]) -> set[NodeId]:
        """Of these nodes, those whose agents do not answer. One that refuses is dead, not out of reach."""
        records = [record for node in nodes if (record := self.record(node)) is not None]
        verdicts = await asyncio.gather(
            *(probe(self._peers, r.host, r.port, r.incarnation, self._probe_s) for r in records)
        )
        return {r.node for r, (verdict, _) in zip(records, verdicts, strict=True) if verdict is Verdict.SILENT}

    async def keep_contact(self, on_silence: Callable[[], None]) -> None:
        """For ever: hold a connection to whoever leads; when it breaks, find out why."""
        while True:
            self._changed.clear()
            known = self._other_leader()
            if known is None:
                await self._changed.wait()
                continue
            if await self._hold(known) and await self.probe_leader() is Verdict.SILENT:
                on_silence()
            await asyncio.sleep(_CONTACT_PAUSE_S)

    async def _hold(self, known: tuple[KeyValue, NodeRecord]) -> bool:
        """True once the connection is gone; False once another leads, or nobody: one to a former leader, which may live
        for long, tells of nothing."""
        _, record = known
        tasks = [
            asyncio.create_task(work, name=name)
            for name, work in (
                ("hold-contact", hold_contact(self._peers, record.host, record.port, self._node, self._lease_ttl_s)),
                ("other-leader", self._until_another_leads(known)),
            )
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            return tasks[1] not in done
        finally:
            for task in tasks:
                task.cancel()

    async def _until_another_leads(self, known: tuple[KeyValue, NodeRecord]) -> None:
        while (now := self._other_leader()) is not None and _term(now) == _term(known):
            self._changed.clear()
            await self._changed.wait()

    def _other_leader(self) -> tuple[KeyValue, NodeRecord] | None:
        """The leader's key and its node's record, if another node leads and both are known."""
        held = self._held.get(self._keys.one("leader"))
        if held is None:
            return None
        leader = decode(LeaderRecord, held.value)
        record = self.record(leader.node)
        return (held, record) if record is not None and leader.node != self._node else None


def _term(leader: tuple[KeyValue, NodeRecord]) -> tuple[int, str, int]:
    """Equal while the same agent leads without a break."""
    held, record = leader
    return held.create_revision, record.host, record.port

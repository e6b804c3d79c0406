"""Nodes and their workers as the store shows them, and what a launcher knows before a node shows there."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from holdfast.model.ids import NodeId
from holdfast.model.records import DrainRecord, NodeRecord
from holdfast.telemetry.run_event import EventKind, RunEvent


class NodeState(StrEnum):
    """Of one node; `left` only if its drain was released or the job was over, else what is gone is `lost`."""

    STARTING = "starting"  # its process runs, no worker of it is warm
    READY = "ready"
    DRAINING = "draining"
    LOST = "lost"
    LEFT = "left"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """An entry of nodes.json. Pids of a node that is gone are the last known."""

    state: NodeState
    agent_pid: int
    worker_pids: tuple[int, ...]  # of warm workers, by slot


@dataclass(slots=True)
class _Node:
    agent_pid: int
    state: NodeState = NodeState.STARTING
    record: NodeRecord | None = None  # the last one shown
    is_shown: bool = False

    @property
    def worker_pids(self) -> tuple[int, ...]:
        workers = self.record.workers if self.record is not None else ()
        return tuple(ref.pid for ref in sorted(workers, key=lambda ref: ref.slot))


class Roster:
    """Each method takes what was seen and yields what is worth telling; seeing the same again yields nothing."""

    def __init__(self) -> None:
        self._nodes: dict[NodeId, _Node] = {}
        self._drains: dict[NodeId, DrainRecord] = {}
        self._is_over = False

    @property
    def nodes(self) -> Mapping[NodeId, NodeStatus]:
        """By name."""
        return {
            name: NodeStatus(state=node.state, agent_pid=node.agent_pid, worker_pids=node.worker_pids)
            for name, node in sorted(self._nodes.items())
        }

    def launched(self, name: NodeId, agent_pid: int) -> None:
        """A process was started for this node, which does not show in the store yet."""
        node = self._nodes.get(name)
        if node is None or not node.is_shown:
            self._nodes[name] = _Node(agent_pid)

    def exited(self, name: NodeId, *, cleanly: bool) -> None:
        """The node's process ended; only news of a node that the store never showed."""
        node = self._nodes.get(name)
        if node is not None and node.record is None:
            node.state = NodeState.LEFT if cleanly else NodeState.LOST

    def job_ended(self) -> None:
        self._is_over = True

    def node_changed(self, name: NodeId, record: NodeRecord | None, now_s: float) -> Iterator[RunEvent]:
        if record is None:
            yield from self._gone(name, now_s)
            return
        node = self._nodes.setdefault(name, _Node(record.agent_pid))
        before = node.record
        was_shown, node.is_shown = node.is_shown, True
        node.record, node.agent_pid = record, record.agent_pid
        if was_shown and before is not None and before.incarnation == record.incarnation:
            yield from _workers_changed(before, record, now_s)
        else:
            again = before is not None
            slots = [str(ref.slot) for ref in record.workers]
            text = f"{name} {'came back' if again else 'joined'} with {len(slots)} slot{'s' * (len(slots) != 1)}"
            fields = {"node": name, "slots": slots, "agent_pid": record.agent_pid, "again": again}
            yield RunEvent(time_s=now_s, kind=EventKind.NODE_JOINED, text=text, fields=fields)
        node.state = self._state(name, record)

    def drain_changed(self, name: NodeId, drain: DrainRecord | None, now_s: float) -> Iterator[RunEvent]:
        before = self._drains.get(name)
        if drain is None:
            self._drains.pop(name, None)
        else:
            self._drains[name] = drain
        node = self._nodes.get(name)
        if node is not None and node.is_shown and node.record is not None:
            node.state = self._state(name, node.record)
        if drain is None:
            return
        fields: dict[str, object] = {"node": name, "reason": drain.reason, "grace_s": drain.grace_s}
        if before is None:
            text = f"{name} is draining: {drain.reason}"
            yield RunEvent(time_s=now_s, kind=EventKind.NODE_DRAINING, text=text, fields=fields)
        if drain.released and (before is None or not before.released):
            text = f"{name} may leave: nothing hangs on it any more"
            yield RunEvent(time_s=now_s, kind=EventKind.NODE_RELEASED, text=text, fields=fields)

    def _gone(self, name: NodeId, now_s: float) -> Iterator[RunEvent]:
        node = self._nodes.get(name)
        if node is None or not node.is_shown:
            return
        node.is_shown = False
        drain = self._drains.get(name)
        if self._is_over or (drain is not None and drain.released):
            node.state, kind = NodeState.LEFT, EventKind.NODE_LEFT
        else:
            node.state, kind = NodeState.LOST, EventKind.NODE_LOST
        text = f"{name} {'left' if kind is EventKind.NODE_LEFT else 'is lost'}"
        yield RunEvent(time_s=now_s, kind=kind, text=text, fields={"node": name})

    def _state(self, name: NodeId, record: NodeRecord) -> NodeState:
        if name in self._drains:
            return NodeState.DRAINING
        return NodeState.READY if record.workers else NodeState.STARTING


def _workers_changed(before: NodeRecord, after: NodeRecord, now_s: float) -> Iterator[RunEvent]:
    known = {ref.worker: ref for ref in before.workers}
    for worker in after.died:
        if worker in before.died:
            continue
        ref = known.get(worker)
        where = str(ref.slot) if ref is not None else f"{after.node} ({worker})"
        fields = {"node": after.node, "slot": str(ref.slot) if ref is not None else None, "worker": worker}
        text = f"the worker of {where} died"
        yield RunEvent(time_s=now_s, kind=EventKind.WORKER_DIED, text=text, fields=fields)
    for ref in after.workers:
        if ref.worker not in known:
            text = f"{ref.slot} has a new worker"
            known_as = {"node": after.node, "slot": str(ref.slot), "worker": ref.worker, "pid": ref.pid}
            yield RunEvent(time_s=now_s, kind=EventKind.WORKER_RETURNED, text=text, fields=known_as)

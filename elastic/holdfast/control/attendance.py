"""Who is asked whether it lives, and what is done about those that do not.

A member's key that goes although nobody said that the node leaves is a question, not an answer: a store that was away,
or an agent that stood still, let the lease end. Its agent is asked, again and again. It has `Job.absent_s` to register
anew, unless two questions in a row, a second apart, find no answer.
"""

from collections.abc import Iterator

from holdfast.control.view import View
from holdfast.model.commands import EvictNode, ProbeNode
from holdfast.model.events import Event, NodeRefused
from holdfast.model.records import NodeRecord

# A member without a key is asked so often.
_ASK_AGAIN_S = 1.0


class Attendance:
    """One per coordinator."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._read = False
        self._probed = 0  # newest generation whose members were all asked

    @property
    def wake_at_s(self) -> float | None:
        """When somebody is to be asked again."""
        times = [a.asked_s + _ASK_AGAIN_S for a in self._view.roster.absent.values() if a.asked_s is not None]
        return min(times, default=None)

    def evictions(self, event: Event) -> tuple[EvictNode, ...]:
        """Before `event` is taken note of: what of a dead node is still in the store."""
        if not isinstance(event, NodeRefused) or event.node in self._view.roster.absent:
            return ()
        record = self._view.nodes.get(event.node)
        if record is None or record.incarnation != event.incarnation:
            return ()
        return (EvictNode(record, "its agent is gone"),)

    def miss_members(self, now_s: float) -> None:
        """Once all of the store was read, of a new leader: members without a key."""
        generation = self._view.generation
        if self._read or generation is None:
            self._read = True
            return
        self._read = True
        for agent in generation.agents:
            if agent.node in self._view.nodes or agent.node in self._view.drains:
                continue
            record = NodeRecord(
                node=agent.node,
                incarnation=agent.incarnation,
                host=agent.host,
                port=agent.port,
                domain=agent.domain,
                agent_pid=0,
                workers=tuple(ref for ref in generation.members if ref.slot.node == agent.node),
            )
            self._view.miss(record, now_s)
        for node in generation.unreachable:
            if node not in self._view.nodes and node not in self._view.drains:
                self._view.unheard.add(node, None, now_s)

    def probes(self, now_s: float) -> Iterator[ProbeNode]:
        """Of members without a key; of everyone, once a generation, when somebody lost contact."""
        view = self._view
        asked = set()
        for node in sorted(view.roster.absent):
            absence = view.roster.absent[node]
            if absence.asked_s is None or now_s >= absence.asked_s + _ASK_AGAIN_S:
                absence.asked_s = now_s
                asked.add(node)
                yield ProbeNode(view.nodes[node])
        if view.generation is None or view.suspected_s is None or self._probed == view.generation.number:
            return
        self._probed = view.generation.number
        for node in sorted((view.member_nodes & view.nodes.keys()) - asked):
            yield ProbeNode(view.nodes[node])

    def give_up(self, absent_s: float, now_s: float) -> float | None:
        """Whose time is over counts as gone. When the next one's will be."""
        for node in sorted(self._view.roster.absent):
            if now_s >= self._view.roster.absent[node].since_s + absent_s:
                self._view.fell_silent(node, now_s)
        return min((absence.since_s + absent_s for absence in self._view.roster.absent.values()), default=None)

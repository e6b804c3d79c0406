"""Whom a node's agent reaches: asked only once contact was lost, and then until everyone is reached again. Pure.

A loss breaks everyone's contact, and is over in a moment: a new generation without the lost one begins. So agents wait
that moment before they ask all others.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from holdfast.control.member_commands import DropReach, MemberCommand, ProbePeers, PutReach
from holdfast.model.ids import NodeId
from holdfast.model.records import ReachRecord

_PATIENCE_S = 0.25
# Longer where there are more: all ask all, and a generation of very many takes longer to begin.
_PATIENCE_A_MEMBER_S = 0.001
# After all were reached they are asked again so often: a cut may begin while they are asked.
_AGAIN_S = 1.0
_LOOKS = 3


@dataclass(slots=True)
class Outlook:
    """Of one node."""

    node: NodeId
    unreachable: frozenset[NodeId] = frozenset()
    wake_at_s: float | None = None
    _members: tuple[NodeId, ...] = ()
    _looks_left: int = 0
    _noted: bool = False  # contact was lost just now, at a time that is not known yet
    _asking: bool = False

    def lost(self, members: Collection[NodeId]) -> None:
        """Contact with some member was lost."""
        self._members, self._looks_left = tuple(sorted(set(members) - {self.node})), _LOOKS
        if self.wake_at_s is None and not self._asking:
            self.wake_at_s, self._noted = 0.0, True

    def superseded(self) -> None:
        """Another generation began, and not because contact was lost: what was lost is dealt with. Whoever is not
        reached is asked on."""
        self._members, self._looks_left = (), 0
        if not self.unreachable:
            self.wake_at_s, self._noted = None, False

    def time_passed(self, now_s: float) -> Iterator[MemberCommand]:
        if self.wake_at_s is None or now_s < self.wake_at_s:
            return
        if self._noted:
            patience_s = _PATIENCE_S + _PATIENCE_A_MEMBER_S * len(self._members)
            self.wake_at_s, self._noted = now_s + patience_s, False
            return
        self.wake_at_s = None
        if nodes := tuple(sorted(self.unreachable.union(self._members))):
            self._asking = True
            yield ProbePeers(nodes)

    def probed(self, unreachable: Collection[NodeId], incarnation: str, now_s: float) -> Iterator[MemberCommand]:
        """What came of it: those that were silent."""
        before, self.unreachable, self._asking = self.unreachable, frozenset(unreachable), False
        self._looks_left = max(0, self._looks_left - 1)
        if not self._looks_left:
            self._members = ()  # from here on only those that are not reached
        self.wake_at_s = now_s + _AGAIN_S if self.unreachable or self._members else None
        if self.unreachable != before:
            yield from self.say(incarnation)

    def say(self, incarnation: str) -> Iterator[MemberCommand]:
        if self.unreachable:
            unreachable = tuple(sorted(self.unreachable))
            yield PutReach(ReachRecord(node=self.node, incarnation=incarnation, unreachable=unreachable))
        else:
            yield DropReach(self.node)

"""Nodes that were given up without a word: nobody knows whether they are dead, so a copy on one may come back.

One whose port refuses, or that says how its workers died, is known dead. One that fell silent may be training, cut off,
until it knows itself that it may not (`control.fencing`), and for as long a job does not end for want of what it holds.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from holdfast.model.ids import NodeId


@dataclass(slots=True)
class Unheard:
    """What they hold is of no use any more once a generation that started without them has committed a step."""

    _since_s: dict[NodeId, float] = field(default_factory=dict)
    _layers: dict[NodeId, frozenset[int] | None] = field(default_factory=dict)
    _passed: frozenset[NodeId] = frozenset()  # those that the newest start did without

    @property
    def nodes(self) -> tuple[NodeId, ...]:
        return tuple(sorted(self._since_s))

    def add(self, node: NodeId, layers: frozenset[int] | None, now_s: float) -> None:
        """`layers`: that it may hold; None: nobody knows which."""
        if node not in self._since_s and (layers is None or layers):
            self._since_s[node], self._layers[node] = now_s, layers

    def heard(self, node: NodeId) -> None:
        """It is there again, or known to be dead."""
        self._since_s.pop(node, None)
        self._layers.pop(node, None)
        self._passed -= {node}

    def started(self) -> None:
        self._passed = frozenset(self._since_s)

    def progressed(self) -> None:
        for node in self._passed:
            self.heard(node)

    def holders_since_s(self, layers: Collection[int]) -> float | None:
        """Since when there is nothing to be heard of the last one that may hold some of these; None: there is none."""
        wanted = frozenset(layers)
        times = (since_s for node, since_s in self._since_s.items() if self._may_hold(node, wanted))
        return max(times, default=None)

    def _may_hold(self, node: NodeId, wanted: frozenset[int]) -> bool:
        layers = self._layers[node]
        return layers is None or not wanted.isdisjoint(layers)

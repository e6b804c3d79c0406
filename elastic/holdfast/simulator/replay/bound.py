"""What no policy can exceed: the best sequence of layouts in hindsight, by dynamic programming over the whole trace.

The bound knows the future and is lucky besides: spare nodes are those that go next, lost members all stood in the
pipelines that are given up, of layers only what a newcomer's stage holds has to travel, and a stall that would last
beyond the next change ends with it. What it does pay is what Parcae's constants charge for each change of layout.
Reshaping between changes is left out: what a better layout gains grows with time, so the best moment is at once.
"""

from collections import Counter

from holdfast.simulator.replay.costs import ParcaeCosts
from holdfast.simulator.replay.model import Model
from holdfast.simulator.replay.trace import Trace
from holdfast.simulator.replay.yields import NOTHING, Layout, Layouts

_ALL = 1 << 30


class Hindsight:
    """The bound for layouts of one model under one set of constants."""

    def __init__(self, layouts: Layouts, model: Model, costs: ParcaeCosts) -> None:
        self._layouts, self._model, self._costs = layouts, model, costs
        self._least: dict[tuple[Layout, Layout, bool], float] = {}

    def samples(self, trace: Trace) -> float:
        """Committed at most."""
        most: dict[Layout, float] = {NOTHING: 0.0}
        nodes = 0
        ends = [*(change.at_s for change in trace.changes[1:]), trace.duration_s]
        for change, end_s in zip(trace.changes, ends, strict=True):
            before = nodes
            nodes += len(change.joined) - len(change.left)
            seconds = end_s - change.at_s
            found: dict[Layout, float] = {}
            for after in (NOTHING, *self._layouts.near(nodes, _ALL)):
                found[after] = max(
                    done + after.rate * max(0.0, seconds - self._seconds(one, after, before, len(change.left)))
                    for one, done in most.items()
                )
            most = found
        return max(most.values())

    def _seconds(self, before: Layout, after: Layout, nodes: int, lost: int) -> float:
        """The least that any change from one to the other takes."""
        hits = max(0, lost - (nodes - before.nodes))
        if after is NOTHING or (before is after and not hits):
            return 0.0
        grows = after.nodes > before.nodes - hits
        key = (before, after, grows)
        if key not in self._least:
            self._least[key] = self._least_s(before, after, grows=grows)
        return self._least[key]

    def _least_s(self, before: Layout, after: Layout, *, grows: bool) -> float:
        costs = self._costs
        if before is NOTHING:
            return costs.start_s(after.depths)
        if not grows and not Counter(after.depths) - Counter(before.depths):
            return costs.regroup_s(after.depths, newcomers=False)
        smallest = min(self._model.size(span) for depth in set(after.depths) for span in self._model.cuts(depth))
        return costs.restart_s(after.depths, newcomers=grows) + (costs.link_s(smallest) if grows else 0.0)

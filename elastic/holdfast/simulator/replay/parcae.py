"""Parcae (NSDI'24), as its public simulator has it: the throughput-optimal plan with live migration, and liveput.

Only even layouts, D pipelines of P stages. Who is lost is not known beforehand: what a migration takes is its mean over
nodes drawn from all that are there (the paper's sampler; here the draws are seeded, and fewer).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from holdfast.simulator.replay.baselines import JOIN, LOSS
from holdfast.simulator.replay.costs import ParcaeCosts
from holdfast.simulator.replay.model import Model
from holdfast.simulator.replay.replaying import Scene, Turn
from holdfast.simulator.replay.trace import Trace
from holdfast.simulator.replay.yields import NOTHING, Layout, Layouts

_DRAWS = 200
# The paper's interval, and how many of them it looks ahead.
INTERVAL_S = 60.0
AHEAD = 8
_WEIGHED = 8


class ParcaeMoves:
    """What a migration is expected to take (NSDI'24).

    Intra-stage: some pipelines go, of every stage enough replicas are left: groups are made anew. Inter-stage: a node
    takes over a stage: the model is built anew and the largest stage that is short travels; stages of which nobody
    is left one after the other. Another depth (repartition): the layers that one pipeline lacks travel, then its
    largest stage to the others. With more nodes than are left of the old layout it is a join: groups take longer.
    """

    def __init__(self, model: Model, costs: ParcaeCosts) -> None:
        self._model, self.costs = model, costs
        self._known: dict[tuple[int, Layout, int, Layout], float] = {}

    def seconds(self, nodes: int, before: Layout, lost: int, after: Layout) -> float:
        """From `before`, one of `nodes` nodes of which `lost` go, to `after`."""
        key = (nodes, before, lost, after)
        if key not in self._known:
            self._known[key] = self._mean_s(*key)
        return self._known[key]

    def restart_s(self, after: Layout) -> float:
        """What a migration that finds another one going on costs besides."""
        return self.costs.restart_s(after.depths, newcomers=False)

    def _mean_s(self, nodes: int, before: Layout, lost: int, after: Layout) -> float:
        if after is NOTHING or (after == before and not lost):
            return 0.0
        if before is NOTHING:
            return self.costs.start_s(after.depths)
        grows = after.nodes > before.nodes - lost
        restart_s = self.costs.restart_s(after.depths, newcomers=grows)
        if before.depths[0] != after.depths[0]:
            return restart_s + self._repartition_s(before, lost, after)
        draw = Random(0)
        total = sum(self._drawn_s(draw.sample(range(nodes), lost), before, after, restart_s) for _ in range(_DRAWS))
        return total / _DRAWS

    def _drawn_s(self, lost: list[int], before: Layout, after: Layout, restart_s: float) -> float:
        """Nodes are numbered pipeline by pipeline, stage by stage; those beyond the layout are spares."""
        depth, wanted = before.depths[0], len(after.depths)
        left = [len(before.depths)] * depth
        for node in lost:
            if node < before.nodes:
                left[node % depth] -= 1
        short = [(stage, wanted - count) for stage, count in enumerate(left) if count < wanted]
        if not short:
            return self.costs.regroup_s(after.depths, newcomers=False)
        sizes = [self._model.size(span) for span in self._model.cuts(depth)]
        alone = sum(sizes[stage] for stage, count in short if count == wanted)
        return restart_s + self.costs.link_s(max(alone, max(sizes[stage] for stage, _ in short)))

    def _repartition_s(self, before: Layout, lost: int, after: Layout) -> float:
        held = [span for depth in before.depths for span in self._model.cuts(depth)]
        gone = {round((number + 0.5) * len(held) / lost) % len(held) for number in range(min(lost, len(held)))}
        held = [span for number, span in enumerate(held) if number not in gone]
        lacking = 0
        wanted = self._model.cuts(after.depths[0])
        for span in wanted:
            nearest = min(held, key=lambda one: self._model.lacking(span, one), default=None)
            if nearest is None:
                lacking = max(lacking, self._model.size(span))
                continue
            held.remove(nearest)
            lacking = max(lacking, self._model.lacking(span, nearest))
        broadcast = max(map(self._model.size, wanted)) if len(after.depths) > 1 else 0
        return self.costs.link_s(lacking + broadcast)


class ParcaeReactive:
    """The throughput-optimal plan at once after every change, by live migration, with what that is expected to take. A
    change that leaves the plan as it is and takes nobody costs nothing; one that finds a migration going on costs a
    restart besides. No state and no step in flight is lost."""

    def __init__(self, layouts: Layouts, moves: ParcaeMoves) -> None:
        self.name = "parcae-reactive"
        self._layouts, self._moves = layouts, moves
        self._now, self._nodes = NOTHING, 0

    def decide(self, scene: Scene) -> Turn:
        assert scene.change is not None
        best = self._layouts.best(len(scene.present))
        return self._to(best, scene)

    def _to(self, after: Layout, scene: Scene) -> Turn:
        assert scene.change is not None
        lost, nodes = len(scene.change.left), self._nodes
        cost_s = self._moves.seconds(nodes, self._now, lost, after)
        self._now, self._nodes = after, len(scene.present)
        if not cost_s:
            return Turn(rate=after.rate, layout=str(after), used=after.nodes)
        again_s = self._moves.restart_s(after) if scene.busy_s else 0.0
        cause = JOIN if scene.change.joined else LOSS
        return Turn(
            rate=after.rate, layout=str(after), used=after.nodes, stalls={cause: cost_s, "restart again": again_s}
        )


class ParcaeFuture:
    """Liveput with the true future (NSDI'24; the paper's Parcae-Ideal): before each minute, the
    sequence of layouts for the next eight that commits most, migrations included, by dynamic programming.

    It knows how many nodes come and go, not who. Every minute the first layout of the best sequence is taken, with what
    its migration is expected to take. Of the layouts for a number of nodes the fastest few, and those of the depths
    that were in use, are weighed.
    """

    def __init__(self, layouts: Layouts, moves: ParcaeMoves, trace: Trace) -> None:
        self.name = "parcae-future"
        self._layouts, self._moves = layouts, moves
        self._intervals = list(_intervals(trace))
        self._at = 0
        self._now = NOTHING

    def decide(self, scene: Scene) -> Turn:
        coming = self._intervals[self._at : self._at + AHEAD]
        assert abs(coming[0].start_s - scene.now_s) < 1e-6, "asked at the start of each interval"
        self._at += 1
        again_s = coming[1].start_s if len(coming) > 1 else None
        after, cost_s = self._first(coming, scene.busy_s)
        self._now = after
        turn = Turn(rate=after.rate, layout=str(after), used=after.nodes, again_s=again_s)
        if not cost_s:
            return turn
        again = self._moves.restart_s(after) if scene.busy_s else 0.0
        cause = JOIN if coming[0].joined else LOSS
        return replace(turn, stalls={cause: cost_s, "restart again": again})

    def _first(self, coming: list["_Interval"], busy_s: float) -> tuple[Layout, float]:
        """The best layout to begin with, and what its migration takes."""
        # (layout at the end): (samples so far, stall that is left over, the first layout of the sequence).
        ends: dict[Layout, tuple[float, float, Layout | None]] = {self._now: (0.0, busy_s, None)}
        for interval in coming:
            grown: dict[Layout, tuple[float, float, Layout | None]] = {}
            options = {
                *self._layouts.near(interval.nodes, _WEIGHED),
                *(one for one in ends if one.nodes <= interval.nodes),
            }
            for after in sorted(options, key=lambda one: (-one.rate, one.depths)) or [NOTHING]:
                for before, (samples, left_s, first) in ends.items():
                    cost_s = self._moves.seconds(interval.before, before, interval.left, after)
                    if cost_s and left_s:
                        cost_s += self._moves.restart_s(after)
                    elif not cost_s:
                        cost_s = left_s
                    work_s = interval.seconds - cost_s
                    found = (samples + after.rate * max(0.0, work_s), max(0.0, -work_s), first or after)
                    known = grown.get(after)
                    if known is None or (found[0], -found[1]) > (known[0], -known[1]):
                        grown[after] = found
            ends = grown
        _, _, first = max(ends.values(), key=lambda end: (end[0], -end[1]))
        assert first is not None
        return first, self._moves.seconds(coming[0].before, self._now, coming[0].left, first)


@dataclass(frozen=True, slots=True)
class _Interval:
    """A minute, or less where a change comes within it."""

    start_s: float
    seconds: float
    before: int  # nodes until then
    nodes: int
    joined: int
    left: int


def _intervals(trace: Trace) -> Iterator[_Interval]:
    nodes = 0
    ends = [*(change.at_s for change in trace.changes[1:]), trace.duration_s]
    for change, end_s in zip(trace.changes, ends, strict=True):
        before, joined, left = nodes, len(change.joined), len(change.left)
        nodes += joined - left
        start_s = change.at_s
        while start_s < end_s - 1e-6:
            seconds = min(INTERVAL_S, end_s - start_s)
            yield _Interval(start_s, seconds, before, nodes, joined, left)
            before, joined, left = nodes, 0, 0
            start_s += seconds

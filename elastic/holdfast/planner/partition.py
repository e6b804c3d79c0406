"""Where to cut the layers into stages: the slowest stage as fast as possible, each within the memory of a slot."""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import TypeAlias

from holdfast.model.plan import Span

Cuts: TypeAlias = tuple[Span, ...]


class Partition:
    """The best cuts of one model for every depth.

    `best[d][l]` is the smallest possible bottleneck of the first l layers in d stages. It grows with l, while the last
    stage shrinks as it starts later, so the best start of the last stage only moves right as l grows: each row takes
    one pass, O(depth * layers) for all depths together. Where starts tie the earliest wins, which keeps every prefix
    optimal too and leaves the first stages, which hold the most activations in flight, no larger than the last.
    """

    def __init__(self, ticks: Sequence[int], layer_bytes: Sequence[int], memory_bytes: int | None, depth_max: int):
        self.layers = len(ticks)
        self._cost = _sums(ticks)
        self._bytes = _sums(layer_bytes)
        self._memory = memory_bytes
        # The earliest start of a stage that ends before layer l and still fits into memory.
        self._earliest = self._earliest_starts()
        self._best: list[list[int | None]] = [[0] + [None] * self.layers]
        self._starts: list[list[int]] = [[0] * (self.layers + 1)]
        for depth in range(1, min(depth_max, self.layers) + 1):
            self._add_row(depth)

    @property
    def depth_least(self) -> int | None:
        """The fewest stages that fit into memory; None if no depth does."""
        return next((depth for depth in range(1, len(self._best)) if self._best[depth][-1] is not None), None)

    def bottleneck(self, depth: int) -> int:
        """Ticks of the slowest stage; `depth` must be feasible."""
        best = self._best[depth][-1]
        assert best is not None, f"{self.layers} layers cannot be cut into {depth} stages"
        return best

    def cuts(self, depth: int) -> Cuts:
        """The stages that reach `bottleneck(depth)`."""
        self.bottleneck(depth)
        bounds = [self.layers]
        for row in range(depth, 0, -1):
            bounds.append(self._starts[row][bounds[-1]])
        return _spans(reversed(bounds))

    def slowest(self, cuts: Cuts) -> int:
        """Ticks of the slowest of these stages."""
        return max(self._cost[span.stop] - self._cost[span.start] for span in cuts)

    def largest(self, cuts: Cuts) -> int:
        """Bytes of the largest of these stages."""
        return max(self._bytes[span.stop] - self._bytes[span.start] for span in cuts)

    def familiar_cuts(self, depth: int, held: Iterable[frozenset[int]], slack: float) -> Cuts:
        """The cuts whose stages lie closest to what slots hold, at most `slack` (0.05: 5 %) slower than the best.

        "Closest" sums, over the stages, the bytes that the best-placed slot lacks; that two stages may name the same
        slot is ignored, so the caller still compares the bytes that really move.
        """
        limit = int(self.bottleneck(depth) * (1 + slack))
        lacking = self._lacking(sorted(set(held), key=sorted))
        # reach[l]: (bytes lacking, bottleneck, bounds) of the first l layers in as many stages as there were rounds.
        reach: dict[int, tuple[int, int, tuple[int, ...]]] = {0: (0, 0, (0,))}
        for row in range(1, depth + 1):
            stops = range(row, self.layers - depth + row + 1) if row < depth else range(self.layers, self.layers + 1)
            grown: dict[int, tuple[int, int, tuple[int, ...]]] = {}
            for stop in stops:
                options = []
                for start in range(stop - 1, self._earliest[stop] - 1, -1):
                    cost = self._cost[stop] - self._cost[start]
                    if cost > limit:
                        break
                    if start in reach:
                        moved, slowest, bounds = reach[start]
                        options.append((moved + lacking(start, stop), max(slowest, cost), (*bounds, stop)))
                if options:
                    grown[stop] = min(options)
            reach = grown
        return _spans(reach[self.layers][2])

    def _earliest_starts(self) -> list[int]:
        starts = [0]
        for stop in range(1, self.layers + 1):
            start = starts[-1]
            while self._memory is not None and self._bytes[stop] - self._bytes[start] > self._memory:
                start += 1
            starts.append(start)
        return starts

    def _add_row(self, depth: int) -> None:
        before, cost = self._best[depth - 1], self._cost
        best: list[int | None] = [None] * (self.layers + 1)
        starts = [0] * (self.layers + 1)
        start = depth - 1
        for stop in range(depth, self.layers + 1):
            start = max(start, self._earliest[stop])
            if start >= stop or before[start] is None:
                # Too many bytes for this many stages; more layers only add to that.
                break
            while start + 1 < stop and _max(before[start + 1], cost[stop] - cost[start + 1]) < _max(
                before[start], cost[stop] - cost[start]
            ):
                start += 1
            best[stop] = int(_max(before[start], cost[stop] - cost[start]))
            starts[stop] = start
        self._best.append(best)
        self._starts.append(starts)

    def _lacking(self, held: list[frozenset[int]]) -> "_Lacking":
        sizes = [stop - start for start, stop in pairwise(self._bytes)]
        return _Lacking([_sums([0 if i in layers else size for i, size in enumerate(sizes)]) for layers in held])


class _Lacking:
    """Bytes of the layers [start, stop) that the best-placed holder lacks."""

    def __init__(self, missing: list[list[int]]):
        self._missing = missing
        self._known: dict[tuple[int, int], int] = {}

    def __call__(self, start: int, stop: int) -> int:
        key = (start, stop)
        if key not in self._known:
            self._known[key] = min((sums[stop] - sums[start] for sums in self._missing), default=0)
        return self._known[key]


def _max(prefix: int | None, stage: int) -> float:
    return float("inf") if prefix is None else max(prefix, stage)


def _sums(values: Sequence[int]) -> list[int]:
    return [0, *accumulate(values)]


def _spans(bounds: Iterable[int]) -> Cuts:
    return tuple(Span(start, stop) for start, stop in pairwise(bounds))

"""What a layout yields: samples a second of pipelines of given depths, measured or predicted."""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

# Stages of each pipeline, deepest first. Everything else about a layout follows from it.
Depths: TypeAlias = tuple[int, ...]


def describe(depths: Depths) -> str:
    """As `Plan.describe`: pipelines x depth, such as `2x13` or `1x14+1x13`; `-` for none."""
    return "+".join(f"{depths.count(depth)}x{depth}" for depth in sorted(set(depths), reverse=True)) or "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Pipelines, and what they commit a second once they run."""

    depths: Depths
    rate: float
    nodes: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", sum(self.depths))

    def __str__(self) -> str:
        return describe(self.depths)


NOTHING = Layout(depths=(), rate=0.0)


class Layouts(Protocol):
    """Layouts worth a thought, a slot a node."""

    @property
    def global_batch(self) -> int: ...

    def best(self, nodes: int) -> Layout:
        """The fastest for at most so many nodes; `NOTHING` if they are too few."""
        ...

    def near(self, nodes: int, count: int) -> tuple[Layout, ...]:
        """The `count` fastest for at most so many nodes, the fastest first."""
        ...

    def of(self, depths: Depths) -> Layout | None:
        """That layout, if it can run."""
        ...


class Listed:
    """All layouts there are, by what they yield."""

    def __init__(self, rates: Mapping[Depths, float], global_batch: int) -> None:
        self.global_batch = global_batch
        known = [Layout(depths=depths, rate=rate) for depths, rate in rates.items() if rate > 0]
        self._ranked = sorted(known, key=_rank)
        self._known = {layout.depths: layout for layout in known}
        self._sizes: list[int] = []
        self._best: list[Layout] = []
        for one in sorted(self._ranked, key=lambda one: one.nodes):
            if not self._best or one.rate > self._best[-1].rate:
                if self._sizes and self._sizes[-1] == one.nodes:
                    self._best[-1] = one
                else:
                    self._sizes.append(one.nodes)
                    self._best.append(one)
        self._near: dict[tuple[int, int], tuple[Layout, ...]] = {}

    def best(self, nodes: int) -> Layout:
        at = bisect_right(self._sizes, nodes)
        return self._best[at - 1] if at else NOTHING

    def near(self, nodes: int, count: int) -> tuple[Layout, ...]:
        key = (nodes, count)
        if key not in self._near:
            found: list[Layout] = []
            for one in self._ranked:
                if len(found) == count:
                    break
                if one.nodes <= nodes:
                    found.append(one)
            self._near[key] = tuple(found)
        return self._near[key]

    def of(self, depths: Depths) -> Layout | None:
        return self._known.get(depths)


class Spread:
    """Layouts of any size: pipelines with depths as even as can be, as the planner's shapes are, in any number.

    `rate` tells what depths yield, 0 where they cannot run. Worked out once for each number of nodes.
    """

    def __init__(self, rate: Callable[[Depths], float], global_batch: int, *, shallowest: int, deepest: int) -> None:
        self.global_batch = global_batch
        self._rate, self._shallowest, self._deepest = rate, shallowest, deepest
        self._full: dict[int, tuple[Layout, ...]] = {}
        self._single: dict[Depths, Layout | None] = {}

    def best(self, nodes: int) -> Layout:
        return next(iter(self._of(nodes)), NOTHING)

    def near(self, nodes: int, count: int) -> tuple[Layout, ...]:
        return self._of(nodes)[:count]

    def of(self, depths: Depths) -> Layout | None:
        if depths not in self._single:
            rate = self._rate(depths) if depths and depths[-1] >= self._shallowest and depths[0] <= self._deepest else 0
            self._single[depths] = Layout(depths=depths, rate=rate) if rate else None
        return self._single[depths]

    def _of(self, nodes: int) -> tuple[Layout, ...]:
        """That use as many of the nodes as such pipelines can."""
        if nodes not in self._full:
            found: list[Layout] = []
            for pipelines in range(max(1, nodes // self._deepest), nodes // self._shallowest + 1):
                used = min(nodes, pipelines * self._deepest)
                depth, deeper = divmod(used, pipelines)
                depths = (depth + 1,) * deeper + (depth,) * (pipelines - deeper)
                if (layout := self.of(depths)) is not None:
                    found.append(layout)
            self._full[nodes] = tuple(sorted(found, key=_rank))
        return self._full[nodes]


def _rank(one: Layout) -> tuple[float, int, int, Depths]:
    """The fastest first; of as fast ones that with fewer nodes, then fewer pipelines: less to lose and to set up."""
    return -one.rate, one.nodes, len(one.depths), one.depths

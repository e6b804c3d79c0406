"""Traces made up from a seed: nodes that live for a while, are taken in bursts, and are harder to get by day."""

from dataclasses import dataclass
from heapq import heappop, heappush
from math import cos, pi
from random import Random

from holdfast.errors import UserError
from holdfast.model.ids import NodeId
from holdfast.simulator.replay.trace import Change, Trace

_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """What a market is like. Rates are those of its mean; by day they differ by `diurnal` (0 to 1), worst at noon."""

    nodes: int  # wanted; missing ones are asked for again
    hours: float
    loss_per_h: float = 0.05  # of each node, by itself
    bursts_per_h: float = 0.5
    burst_share: float = 0.1  # of the nodes that are there, on average
    return_s: float = 300.0  # until a lost node is replaced, on average
    diurnal: float = 0.3
    grid_s: float = 1.0  # moments are rounded up to this
    notice_s: float = 0.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("nodes", 1, 10**6),
            ("hours", 1e-3, 1e5),
            ("loss_per_h", 0, 1e4),
            ("bursts_per_h", 0, 1e4),
            ("burst_share", 0, 1),
            ("return_s", 1e-3, 1e9),
            ("diurnal", 0, 1),
            ("grid_s", 1e-3, 1e5),
            ("notice_s", 0, 1e5),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(f"{name}: {value} given; should be from {low:g} to {high:g}")


def generate(pattern: Pattern, seed: int) -> Trace:
    """The same for the same seed. All wanted nodes are there at the start."""
    return _Market(pattern, seed).trace()


class _Market:
    """Loss and burst are Poisson processes, thinned by the hour of the day (Lewis and Shedler 1979)."""

    def __init__(self, pattern: Pattern, seed: int) -> None:
        self._pattern, self._seed, self._draw = pattern, seed, Random(seed)
        self._present = [NodeId(f"node-{number}") for number in range(pattern.nodes)]
        self._named = pattern.nodes
        self._moments: dict[float, tuple[list[NodeId], list[NodeId]]] = {0.0: (list(self._present), [])}
        self._due: list[float] = []

    def trace(self) -> Trace:
        pattern = self._pattern
        end_s = pattern.hours * 3600
        now_s = 0.0
        while True:
            worst = 1 + pattern.diurnal
            rate = (len(self._present) * pattern.loss_per_h + pattern.bursts_per_h) / 3600 * worst
            next_s = now_s + self._draw.expovariate(rate) if rate > 0 else float("inf")
            if self._due and self._due[0] <= min(next_s, end_s):
                now_s = heappop(self._due)
                self._return(now_s)
                continue
            now_s = next_s
            if now_s >= end_s:
                break
            if self._draw.random() * worst <= self._severity(now_s):
                self._strike(now_s)
        return Trace(name=f"generated-{self._seed}", changes=self._changes(end_s), duration_s=end_s)

    def _severity(self, now_s: float) -> float:
        return 1 - self._pattern.diurnal * cos(2 * pi * now_s / _DAY_S)

    def _strike(self, now_s: float) -> None:
        pattern, present = self._pattern, self._present
        alone = len(present) * pattern.loss_per_h
        count = 1
        if self._draw.random() * (alone + pattern.bursts_per_h) >= alone:
            share = min(1.0, self._draw.expovariate(1.0) * pattern.burst_share)
            count = max(1, round(share * len(present)))
        for _ in range(min(count, len(present))):
            # The last takes the place of who leaves: drawing without moving all the others.
            at = self._draw.randrange(len(present))
            present[at], present[-1] = present[-1], present[at]
            self._moment(now_s)[1].append(present.pop())
            heappush(self._due, now_s + self._draw.expovariate(1 / pattern.return_s))

    def _return(self, now_s: float) -> None:
        node = NodeId(f"node-{self._named}")
        self._named += 1
        self._present.append(node)
        self._moment(now_s)[0].append(node)

    def _moment(self, now_s: float) -> tuple[list[NodeId], list[NodeId]]:
        at_s = -(-now_s // self._pattern.grid_s) * self._pattern.grid_s
        return self._moments.setdefault(at_s, ([], []))

    def _changes(self, end_s: float) -> tuple[Change, ...]:
        changes = []
        for at_s, (joined, left) in sorted(self._moments.items()):
            unseen = set(joined) & set(left)  # came and went within one step of the grid
            kept = [tuple(node for node in nodes if node not in unseen) for nodes in (joined, left)]
            if at_s <= end_s and any(kept):
                notice_s = self._pattern.notice_s if kept[1] else 0.0
                changes.append(Change(at_s=at_s, joined=kept[0], left=kept[1], notice_s=notice_s))
        return tuple(changes)

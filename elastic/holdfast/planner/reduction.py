"""What the reduction of gradients sends, and how long that takes: see worker/reduce.py, which does it.

canonical: the ranks of a segment own a chunk of its gradient each. Every rank sends to each owner its part of all
subtrees that it summed, then gets the sums back. allreduce: a ring, twice around (Patarasuk and Yuan, 2009).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from holdfast.model.plan import Plan, Segment
from holdfast.planner.profile import Link, Profile
from holdfast.planner.shares import subtrees

# worker/gradients.py exchanges so many bytes of gradients at a time.
ROUND_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Traffic:
    """The most that a rank of a segment sends or receives, and how many times all wait for each other meanwhile."""

    size_bytes: float
    waits: int


def parts_of(plan: Plan) -> tuple[int, ...]:
    """Partial sums that each pipeline sends of every gradient, by pipeline."""
    return tuple(subtrees(p.blocks.start, p.blocks.stop, plan.block_count) for p in plan.pipelines)


def canonical_traffic(gradient_bytes: int, parts: Sequence[int]) -> Traffic:
    """`parts`: of each rank of the segment."""
    ranks, total = len(parts), sum(parts)
    chunk = gradient_bytes / ranks
    most = max(max(own * (ranks - 1), total - own) for own in parts)
    return Traffic(chunk * (most + ranks - 1), 2 * max(1, -(-gradient_bytes // ROUND_BYTES)))


def ring_traffic(gradient_bytes: int, ranks: int) -> Traffic:
    return Traffic(2 * gradient_bytes * (ranks - 1) / ranks, 2 * (ranks - 1))


class Reduction:
    """Of one plan."""

    def __init__(self, plan: Plan, profile: Profile, *, canonical: bool) -> None:
        self._plan, self._profile = plan, profile
        self._parts = parts_of(plan) if canonical else None
        self._bytes = [0, *accumulate(layer.param_bytes for layer in profile.layers)]
        slots_of_node = Counter(slot.node for slot in plan.slots)
        # All stages reduce at about the same time, and the slots of a node share what joins it to the others.
        self._sharing = max(slots_of_node.values())
        self._is_one_node = len(slots_of_node) == 1

    def seconds(self, segment: Segment) -> float:
        """From when all ranks of the segment are there to when each has the sum."""
        if len(segment.ranks) == 1:
            return 0.0
        size = self._bytes[segment.layers.stop] - self._bytes[segment.layers.start]
        if not size:
            return 0.0
        traffic = canonical_traffic(size, self._parts) if self._parts else ring_traffic(size, len(segment.ranks))
        link = self._link(segment)
        return traffic.waits * link.latency_s + traffic.size_bytes / link.bytes_per_s

    def _link(self, segment: Segment) -> Link:
        """The slowest that the segment's ranks use."""
        if self._is_one_node or len({self._plan.slots[rank].node for rank in segment.ranks}) == 1:
            return self._profile.within_node
        between = self._profile.between_nodes
        return Link(bytes_per_s=between.bytes_per_s / self._sharing, latency_s=between.latency_s)

"""Pipelines of slots of one kind each, for many slots: a knapsack for every kind at a guessed time, which is bisected.

Exact, up to the last steps of the bisection, in what all pipelines take if each has slots of one kind alone.
"""

from collections import Counter
from collections.abc import Iterator
from typing import TypeAlias

from holdfast.planner.exhaustive import Chains
from holdfast.planner.partition import Chain, Partition
from holdfast.planner.shapes import Limits
from holdfast.planner.shares import Pace, makespan

# (depth, pace, stages) of a pipeline.
_Option: TypeAlias = tuple[int, Pace, Chain]
# Bisection ends at this part of the time (a power of two): 0.02 %.
_PRECISION_BITS = 12


class Packing:
    """`counts`: slots of each kind."""

    def __init__(self, partition: Partition, counts: tuple[int, ...], limits: Limits):
        self._blocks, self._block_size = limits.blocks, limits.block_size
        self._counts = counts
        self._chains = [
            [
                (depth, chains[0].pace, chains[0])
                for depth in limits.depths
                if depth <= count and (chains := partition.chains(_alone(kind, depth, len(counts))))
            ]
            for kind, count in enumerate(counts)
        ]

    def faster_than(self, ticks: int) -> Chains | None:
        """Pipelines that do all blocks in fewer ticks, in nearly the fewest; None where there are none."""
        low, high, best = 0, ticks, None
        while high - low > max(1, high >> _PRECISION_BITS):
            middle = (low + high) // 2
            found = self._within(middle)
            if found is None:
                low = middle
                continue
            paces = Counter[Pace]()
            for chain, count in found:
                paces[chain.pace] += count
            taken = makespan(paces, self._blocks, self._block_size)
            assert taken is not None and taken <= middle, "what is packed is done in time"
            best, high = found, taken
        return best

    def _within(self, ticks: int) -> Chains | None:
        """Pipelines that do all blocks in so many ticks."""
        found: dict[Chain, int] = {}
        missing = self._blocks
        for chains, count in zip(self._chains, self._counts, strict=True):
            for chain, blocks in self._packed(chains, count, ticks):
                found[chain] = found.get(chain, 0) + 1
                missing -= blocks
        if (
            missing > 0
            or sum(n * chain.pace.blocks_least(self._block_size) for chain, n in found.items()) > self._blocks
        ):
            return None
        return tuple(found.items())

    def _packed(self, chains: list[_Option], slots: int, ticks: int) -> Iterator[tuple[Chain, int]]:
        """The pipelines of so many slots that do most blocks, and how many blocks each does."""
        items: list[tuple[int, int, Chain]] = []
        for depth, pace, chain in chains:  # ascending in depth
            blocks = pace.blocks_within(ticks, self._block_size)
            if blocks >= pace.blocks_least(self._block_size) and (not items or blocks > items[-1][1]):
                items.append((depth, blocks, chain))
        # most[n]: the most blocks that n slots do, and the last pipeline that was added for it.
        most, last = [0] * (slots + 1), [-1] * (slots + 1)
        for room in range(1, slots + 1):
            best, chosen = most[room - 1], -1
            for number, (depth, blocks, _) in enumerate(items):
                if depth > room:
                    break
                if most[room - depth] + blocks > best:
                    best, chosen = most[room - depth] + blocks, number
            most[room], last[room] = best, chosen
        room, taken = slots, list[tuple[Chain, int]]()
        while room > 0:
            if last[room] < 0:
                room -= 1
                continue
            depth, blocks, chain = items[last[room]]
            taken.append((chain, blocks))
            room -= depth
        yield from self._deepened(taken, chains, slots - sum(chain.depth for chain, _ in taken), ticks)

    def _deepened(
        self, taken: list[tuple[Chain, int]], chains: list[_Option], spare: int, ticks: int
    ) -> Iterator[tuple[Chain, int]]:
        """The same with spare slots put to use where that makes no pipeline slower."""
        size = self._block_size
        for chain, blocks in taken:
            low, high = chain.depth + 1, chain.depth + spare
            deeper = [
                other for depth, pace, other in (chains if spare else ())
                if low <= depth <= high and pace.blocks_within(ticks, size) >= blocks >= pace.blocks_least(size)
            ]  # fmt: skip
            chosen = deeper[-1] if deeper else chain
            spare -= chosen.depth - chain.depth
            yield chosen, blocks


def _alone(kind: int, depth: int, kinds: int) -> tuple[int, ...]:
    return tuple(depth if number == kind else 0 for number in range(kinds))

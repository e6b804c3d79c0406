"""The best of all sets of pipelines, for few slots: branch and bound over teams."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import le
from typing import TypeAlias

from holdfast.planner.cost import reduction_time
from holdfast.planner.partition import Chain, Partition, Team
from holdfast.planner.shapes import Runs
from holdfast.planner.shares import makespan

# What to minimise: ticks of a step, slots that idle, pipelines.
Rank: TypeAlias = tuple[int, int, int]
Chains: TypeAlias = tuple[tuple[Chain, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What may be found."""

    counts: Team  # slots of each kind
    pipelines: frozenset[int]  # allowed numbers of pipelines
    runs: frozenset[Runs] | None  # allowed depths; None: all
    blocks: int
    block_size: int
    accept: Callable[[Chains], bool]  # asked only of what is better than all that was accepted so far


class Exhaustive:
    """One search. A set of pipelines is built up team by team; it is given up where even with the best use of the slots
    that are left all together finish too few blocks in the time of the best set known."""

    def __init__(self, partition: Partition, wanted: Wanted):
        self._wanted = wanted
        self._options: list[Chain] = []
        self._options_of: dict[Team, range] = {}
        for team in _teams(wanted.counts):
            if sum(team) <= wanted.blocks * wanted.block_size and (chains := partition.chains(team)):
                self._options_of[team] = range(len(self._options), len(self._options) + len(chains))
                self._options += chains
        self._fits: dict[Team, Sequence[tuple[Team, Sequence[int], Team]]] = {}
        self._most = max(wanted.pipelines, default=0)
        self._best: Rank | None = None
        self._found: Chains | None = None

    def better_than(self, known: Rank | None) -> Chains | None:
        """The best that is accepted; None where that is no better than what is known."""
        self._best = known
        self._bound()
        self._extend([], 0, self._wanted.counts, 0)
        return self._found

    def _bound(self) -> None:
        """The blocks that each option finishes in the time of the best known, and room for those of the rest."""
        wanted = self._wanted
        self._taken = [0] * len(self._options)
        best_of: dict[Team, int] = {}
        for team, options in self._options_of.items():
            for number in options:
                pace, taken = self._options[number].pace, wanted.blocks
                if self._best is not None:
                    taken = min(taken, pace.blocks_within(self._best[0], wanted.block_size))
                if taken >= pace.blocks_least(wanted.block_size):
                    self._taken[number] = taken
                    best_of[team] = max(taken, best_of.get(team, 0))
        self._best_of = best_of
        self._rest: dict[Team, int] = {}

    def _most_of(self, left: Team) -> int:
        """No more blocks than these can be done by slots that are left."""
        if left not in self._rest:
            best_of = self._best_of
            self._rest[left] = max(
                (best_of[team] + self._most_of(rest) for team, _, rest in self._fitting(left) if team in best_of),
                default=0,
            )
        return self._rest[left]

    def _fitting(self, left: Team) -> Sequence[tuple[Team, Sequence[int], Team]]:
        """The teams that slots which are left can form: with their options, and what is left then."""
        if left not in self._fits:
            self._fits[left] = [
                (team, options, tuple(many - few for many, few in zip(left, team, strict=True)))
                for team, options in self._options_of.items()
                if all(map(le, team, left))
            ]
        return self._fits[left]

    def _extend(self, chosen: list[Chain], first: int, left: Team, taken: int) -> None:
        if chosen:
            self._weigh(chosen, left)
        if len(chosen) == self._most:
            return
        for _, options, rest in self._fitting(left):
            if options[-1] < first:
                continue
            missing = self._wanted.blocks - taken - self._most_of(rest)
            for number in options:
                if number >= first and self._taken[number] and self._taken[number] >= missing:
                    chosen.append(self._options[number])
                    self._extend(chosen, number, rest, taken + self._taken[number])
                    chosen.pop()

    def _weigh(self, chosen: Sequence[Chain], left: Team) -> None:
        wanted = self._wanted
        if len(chosen) not in wanted.pipelines:
            return
        if wanted.runs is not None and _runs(chosen) not in wanted.runs:
            return
        ticks = makespan(Counter(chain.pace for chain in chosen), wanted.blocks, wanted.block_size)
        if ticks is None:
            return
        step = ticks + reduction_time(len(chosen), max(chain.largest for chain in chosen))
        rank = (step, sum(left), len(chosen))
        if self._best is not None and rank >= self._best:
            return
        chains = tuple(Counter(chosen).items())
        if wanted.accept(chains):
            self._best, self._found = rank, chains
            self._bound()


def _teams(counts: Team) -> list[Team]:
    """All that can be formed, the largest first."""
    teams: list[Team] = [()]
    for count in counts:
        teams = [(*team, members) for team in teams for members in range(count + 1)]
    return sorted((team for team in teams if any(team)), key=lambda team: (-sum(team), team))


def _runs(chosen: Sequence[Chain]) -> Runs:
    return tuple(sorted(Counter(chain.depth for chain in chosen).items(), reverse=True))

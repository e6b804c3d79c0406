"""Who stands in the pipelines of an outline where slots differ: teams of slots, and the stages that suit them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from holdfast.model.ids import SlotId
from holdfast.planner.cost import reduction_time
from holdfast.planner.partition import Chain, Kind, Partition, Team
from holdfast.planner.shapes import Group, Outline, Runs
from holdfast.planner.shares import Pace, makespan


@dataclass(frozen=True, slots=True)
class Crew:
    """The pipelines that lie wholly on a group: (stages, how many pipelines have them)."""

    group: Group
    chains: tuple[tuple[Chain, int], ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """All of a layout but who of a kind stands where, and the shares."""

    crews: tuple[Crew, ...]

    @property
    def pipelines(self) -> int:
        return sum(count for crew in self.crews for _, count in crew.chains)

    @property
    def employed(self) -> int:
        """Slots that have a stage."""
        return sum(chain.depth * count for crew in self.crews for chain, count in crew.chains)

    def step_ticks(self, blocks: int, block_size: int) -> int | None:
        """What a step takes; None where there are too few blocks for the depths."""
        paces: dict[Pace, int] = {}
        for crew in self.crews:
            for chain, count in crew.chains:
                paces[chain.pace] = paces.get(chain.pace, 0) + count
        ticks = makespan(paces, blocks, block_size)
        largest = max(chain.largest for crew in self.crews for chain, _ in crew.chains)
        return None if ticks is None else ticks + reduction_time(self.pipelines, largest)


class Staff:
    """The slots by kind."""

    def __init__(self, kind_of: Mapping[SlotId, int], kinds: Sequence[Kind], partition: Partition):
        self._kind_of, self._partition = kind_of, partition
        # The fastest first, and of those the roomiest.
        self._order = sorted(range(len(kinds)), key=lambda kind: (-kinds[kind].speed, _room(kinds[kind]), kind))
        self._count = len(kinds)
        self._counted: dict[Group, Counter[int]] = {}

    def without_slowest(self, slots: tuple[SlotId, ...], most: int) -> Iterator[tuple[SlotId, ...]]:
        """All slots, then without those of the slowest kind, of the two slowest, and so on."""
        for left_out in range(min(self._count, most)):
            kept = set(self._order[: self._count - left_out])
            if staying := tuple(slot for slot in slots if self._kind_of[slot] in kept):
                yield staying

    def shapes(self, outline: Outline) -> Iterator[Shape]:
        """With slots of a kind together, the fast or the slow ones in the deepest pipelines, or with each pipeline
        mixed alike. The slowest stay idle where not all have a place."""
        arrangements = (_fast_first, _slow_first, _mixed) if self._count > 1 else (_fast_first,)
        found: list[Shape] = []
        for arrange in arrangements:
            crews = []
            for group, runs in zip(outline.groups, outline.runs, strict=True):
                chains = self._chains(arrange(self._counts(group, runs), self._order), runs)
                if chains is None:
                    break
                crews.append(Crew(group, chains))
            else:
                shape = Shape(tuple(crews))
                if shape not in found:
                    found.append(shape)
                    yield shape

    def _counts(self, group: Group, runs: Runs) -> list[int]:
        """How many slots of each kind have a place."""
        if group not in self._counted:
            self._counted[group] = Counter(self._kind_of[slot] for slot in group.slots)
        counts = self._counted[group].copy()
        surplus = len(group.slots) - sum(depth * count for depth, count in runs)
        for kind in reversed(self._order):
            left_out = min(surplus, counts[kind])
            counts[kind] -= left_out
            surplus -= left_out
        return [counts[kind] for kind in range(self._count)]

    def _chains(self, line: Iterator[int], runs: Runs) -> tuple[tuple[Chain, int], ...] | None:
        """Pipelines with the kinds of a line one after another; None where a pipeline does not fit into memory."""
        if self._count == 1:
            teams: Counter[Team] = Counter({(depth,): count for depth, count in runs})
        else:
            teams = Counter(self._team(islice(line, depth)) for depth, count in runs for _ in range(count))
        found: list[tuple[Chain, int]] = []
        for team, count in teams.items():
            chains = self._partition.chains(team)
            if not chains:
                return None
            found.append((chains[0], count))
        return tuple(found)

    def _team(self, members: Iterator[int]) -> Team:
        counts = [0] * self._count
        for kind in members:
            counts[kind] += 1
        return tuple(counts)


def _room(kind: Kind) -> float:
    return -(float("inf") if kind.memory_bytes is None else kind.memory_bytes)


def _fast_first(counts: Sequence[int], order: Sequence[int]) -> Iterator[int]:
    return (kind for kind in order for _ in range(counts[kind]))


def _slow_first(counts: Sequence[int], order: Sequence[int]) -> Iterator[int]:
    return _fast_first(counts, order[::-1])


def _mixed(counts: Sequence[int], order: Sequence[int]) -> Iterator[int]:
    """Every kind as evenly along the line as it can be."""
    total = max(1, sum(counts))
    at = [
        ((2 * n + 1) * total // (2 * counts[kind]), turn)
        for turn, kind in enumerate(order)
        for n in range(counts[kind])
    ]
    return (order[turn] for _, turn in sorted(at))

"""Generations and commits as the store tells of them, merged by step, and the times between them.

Rule: a commit counts unless a later generation started from before it (`control.recovery`); what is told late or
twice, by whoever, changes nothing about that.
"""

import heapq
import math
import statistics
from bisect import bisect_right, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from holdfast.control.recovery import Lineage, extend_lineage
from holdfast.model.ids import NodeId
from holdfast.model.records import AckPhase, Commit, GenerationRecord, NodeAck, StartRecord, Version
from holdfast.telemetry.series import Series


@dataclass(slots=True)
class Generation:
    """What is known of one generation. Times are the watcher's; of commits, the reporting rank's."""

    number: int
    record: GenerationRecord | None = None
    start: StartRecord | None = None
    begun_s: float | None = None  # its record was written
    stopped_s: float | None = None  # every member has said what it holds
    started_s: float | None = None  # its start was written
    running_s: float | None = None  # every member holds its layers
    acks: dict[NodeId, NodeAck] = field(default_factory=dict)  # without inventories
    commits: Series = field(default_factory=Series)  # also those that a later generation undid

    @property
    def member_nodes(self) -> frozenset[NodeId]:
        members = self.record.members if self.record is not None else ()
        return frozenset(ref.slot.node for ref in members)

    @property
    def is_stopped(self) -> bool:
        return self.record is not None and self.member_nodes <= self.acks.keys()

    @property
    def is_running(self) -> bool:
        running = {node for node, ack in self.acks.items() if ack.phase is not AckPhase.STOPPED}
        return self.record is not None and self.start is not None and self.member_nodes <= running

    @property
    def first_commit_s(self) -> float | None:
        """When; of several steps told, the first one's."""
        return self.commits.time_s(self.commits.first)

    @property
    def last_commit_s(self) -> float | None:
        return self.commits.time_s(self.commits.last)

    def gaps_s(self) -> list[float]:
        """Times between commits of consecutive steps."""
        return [after[1] - before[1] for before, after in pairwise(self.commits) if after[0] == before[0] + 1]


class Timeline:
    """Mutable; the Recorder tells it what it sees.

    A step's commit is kept once, with the generation that made it; which of them are history follows from the starts.
    """

    def __init__(self) -> None:
        self._generations: dict[int, Generation] = {}
        self._ordered: list[Generation] = []  # by number
        self._lineage: Lineage = ()  # steps rise with generations
        self._committed_step = 0
        self._forgotten = 0  # no generation up to this number is taken up any more
        self._has_run = False  # one that is forgotten did

    def generation(self, number: int) -> Generation:
        """Of one that is forgotten, nothing is known and nothing is kept."""
        known = self._generations.get(number)
        if known is None and number <= self._forgotten:
            return Generation(number)
        if known is None:
            known = self._generations[number] = Generation(number)
            insort(self._ordered, known, key=_number)
        return known

    @property
    def generations(self) -> Sequence[Generation]:
        """By number."""
        return self._ordered

    @property
    def current(self) -> Generation | None:
        """The newest that was begun."""
        begun = (g for g in reversed(self.generations) if g.record is not None)
        return next(begun, None)

    @property
    def has_run(self) -> bool:
        """Whether any generation ran."""
        return self._has_run or any(g.is_running or g.commits for g in self._ordered)

    @property
    def committed_step(self) -> int:
        """Steps that are committed now: after a start from an earlier step, only as many as that."""
        return self._committed_step

    def loss(self, step: int) -> float | None:
        """None where no record told it."""
        newest_first = (g.commits.loss(step) for g in reversed(self.generations) if step <= self._limit(g.number))
        return next((loss for loss in newest_first if loss is not None), None)

    def history(self) -> Iterator[tuple[int, int, float, float]]:
        """(step, generation, time, loss) of each commit that counts, by step."""
        kept = [_until(generation, self._limit(generation.number)) for generation in self.generations]
        last = 0
        for step, reverse, time_s, loss in heapq.merge(*kept):
            if step != last:
                yield step, -reverse, time_s, loss
            last = step

    def begin(self, start: StartRecord, now_s: float) -> tuple[Commit, ...]:
        """A generation's start: what it undoes is history no more. Returns commits that it tells first."""
        number = start.generation
        generation = self.generation(number)
        generation.start, generation.started_s = start, now_s
        # What the lineage has dropped so far, it would drop again.
        starts, self._lineage = {**dict(self._lineage), number: start.version.step}, ()
        for each in sorted(starts.items()):
            self._lineage = extend_lineage(self._lineage, *each)
        reached = (g.commits.last_until(self._limit(g.number)) for g in self.generations)
        self._committed_step = max(self._lineage[-1][1], *reached)
        rolled = start.roll_forward
        told = rolled is not None and self.commit(start.version.generation, rolled)
        return (rolled,) if told and rolled is not None else ()

    def commit(self, number: int, commit: Commit, *, by_rank_0: bool = False) -> bool:
        """Take note of one commit of generation `number`; whether it was news and counts."""
        generation, step = self.generation(number), commit.step
        if number not in self._generations:
            return False
        is_known = step in generation.commits
        if is_known and not by_rank_0:
            return False
        # All ranks learn the same loss from the vote; rank 0's clock is kept, so that gaps are of one clock.
        generation.commits.add(step, commit.time_s, commit.loss)
        if step > self._limit(number) or self._is_superseded(number, step):
            return False
        self._committed_step = max(self._committed_step, step)
        return not is_known

    def _limit(self, number: int) -> float:
        """The last step of generation `number` that no later one undid."""
        later = bisect_right(self._lineage, number, key=_first)
        return self._lineage[later][1] if later < len(self._lineage) else math.inf

    def _is_superseded(self, number: int, step: int) -> bool:
        """Whether a later generation committed this step."""
        later = self._ordered[bisect_right(self._ordered, number, key=_number) :]
        return any(step in g.commits and step <= self._limit(g.number) for g in later)

    def forget_before(self, step: int) -> None:
        """Commits of earlier steps are history that nobody asks after any more, about as far back as that; nor does
        anybody after generations before the present one that hold no others."""
        self._has_run = self.has_run
        for generation in self._ordered:
            generation.commits.forget_before(step)
        current = self.current
        old = [g for g in self._ordered if current is not None and g.number < current.number and not g.commits]
        for generation in old:
            del self._generations[generation.number]
            self._forgotten = max(self._forgotten, generation.number)
        self._ordered = sorted(self._generations.values(), key=_number)

    def commits_of(self, ack: NodeAck) -> Iterator[tuple[int, Commit]]:
        """(generation, commit) of what the node's workers remember of the history of the state they hold.

        A worker that was set back still remembers what was undone: walking back, a step that does not descend.
        """
        for inventory in ack.inventory:
            version = inventory.version
            if version is None:
                continue
            below = version.step + 1
            for commit in reversed(inventory.commits):
                if commit.step < below:
                    below = commit.step
                    yield self._generation_of(commit.step, version), commit

    def _generation_of(self, step: int, version: Version) -> int:
        """Which generation committed `step` of the history that led to `version`."""
        while step < version.step:
            held = self._generations.get(version.generation)
            start = held.start if held is not None else None
            if start is None or start.version.step < step:
                break
            version = start.version
        return version.generation

    def median_step_s(self, number: int | None = None) -> float | None:
        """Median time between commits of consecutive steps of one generation: over the whole run, or of generation
        `number`, else of the last one before it that has any."""
        if number is None:
            return _median([gap for generation in self._generations.values() for gap in generation.gaps_s()])
        earlier = (_median(g.gaps_s()) for g in reversed(self.generations) if g.number <= number)
        return next((median for median in earlier if median is not None), None)

    def last_commit_before_s(self, number: int) -> float | None:
        """When the newest, in time, of all earlier generations was, whether it was undone or not."""
        ends = (g.last_commit_s for g in self.generations if g.number < number)
        return max((end for end in ends if end is not None), default=None)

    def downtime_s(self, number: int) -> float | None:
        """Last commit before it to its first, less one median step; None where either is missing."""
        before_s, after_s = self.last_commit_before_s(number), self.generation(number).first_commit_s
        if before_s is None or after_s is None:
            return None
        return after_s - before_s - (self.median_step_s(number) or 0.0)

    def redone_steps(self, number: int) -> int:
        """Steps begun or committed before this generation that it starts from before of."""
        start = self.generation(number).start
        if start is None:
            return 0
        top = start.version.step
        limit: int | None = None  # where the generations between were set back to
        for generation in reversed(self.generations):
            if generation.number >= number:
                continue
            if generation.commits:
                reached = generation.commits.last
                top = max(top, reached if limit is None else min(reached, limit))
            if generation.start is not None:
                step = generation.start.version.step
                limit = step if limit is None else min(limit, step)
        return max(start.redone_steps, top - start.version.step)

    def goodput(self) -> float | None:
        """Share of the time from the first commit to the last that went into steps that count.

        A step counts with the gap to the one before it; the first of a generation, whose gap holds the reshape,
        with one median step.
        """
        span = self.span_s()
        if span is None or span[1] <= span[0]:
            return None
        medians = {number: self.median_step_s(number) or 0.0 for number in self._generations}
        useful_s = 0.0
        before: tuple[int, int, float] | None = None
        for step, number, time_s, _ in self.history():
            if before is not None:
                is_next = before[:2] == (step - 1, number)
                useful_s += time_s - before[2] if is_next else medians[number]
            before = (step, number, time_s)
        return useful_s / (span[1] - span[0])

    def span_s(self) -> tuple[float, float] | None:
        """When the first and the last commit was made; None where there are fewer than two."""
        count, first_s, last_s = 0, math.inf, -math.inf
        for generation in self.generations:
            for _, time_s, _ in generation.commits:
                count, first_s, last_s = count + 1, min(first_s, time_s), max(last_s, time_s)
        return (first_s, last_s) if count > 1 else None


def _until(generation: Generation, limit: float) -> Iterator[tuple[int, int, float, float]]:
    """Its commits up to step `limit`, in the order in which the newest generation comes first at each step."""
    return ((step, -generation.number, time_s, loss) for step, time_s, loss in generation.commits if step <= limit)


def _number(generation: Generation) -> int:
    return generation.number


def _first(entry: tuple[int, int]) -> int:
    return entry[0]


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None

"""Generations and commits as the store tells of them, merged by step, and the times between them.

Rule: a commit counts unless a later generation started from before it (`control.recovery`); what is told late or
twice, by whoever, changes nothing about that.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from holdfast.control.recovery import Lineage, extend_lineage, is_history
from holdfast.model.ids import NodeId
from holdfast.model.records import AckPhase, Commit, GenerationRecord, NodeAck, StartRecord, Version


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
    acks: dict[NodeId, NodeAck] = field(default_factory=dict)
    commits: dict[int, Commit] = field(default_factory=dict)  # also those that a later generation undid
    first_step: int = 0  # of its commits; 0: there is none
    last_step: int = 0

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
    def first_commit(self) -> Commit | None:
        return self.commits.get(self.first_step)

    @property
    def last_commit(self) -> Commit | None:
        return self.commits.get(self.last_step)

    def add(self, commit: Commit) -> None:
        self.first_step = min(self.first_step or commit.step, commit.step)
        self.last_step = max(self.last_step, commit.step)
        self.commits[commit.step] = commit

    def gaps_s(self) -> list[float]:
        """Times between commits of consecutive steps."""
        return [
            commit.time_s - self.commits[step - 1].time_s
            for step, commit in sorted(self.commits.items())
            if step - 1 in self.commits
        ]


class Timeline:
    """Mutable; the Recorder tells it what it sees."""

    def __init__(self) -> None:
        self._generations: dict[int, Generation] = {}
        self._history: dict[int, tuple[int, Commit]] = {}  # step -> (generation, commit)
        self._lineage: Lineage = ()
        self._committed_step = 0

    def generation(self, number: int) -> Generation:
        return self._generations.setdefault(number, Generation(number))

    @property
    def generations(self) -> Sequence[Generation]:
        """By number."""
        return [self._generations[number] for number in sorted(self._generations)]

    @property
    def current(self) -> Generation | None:
        """The newest that was begun."""
        begun = (g for g in reversed(self.generations) if g.record is not None)
        return next(begun, None)

    @property
    def committed_step(self) -> int:
        """Steps that are committed now: after a start from an earlier step, only as many as that."""
        return self._committed_step

    def loss(self, step: int) -> float | None:
        """None where no record told it."""
        held = self._history.get(step)
        return held[1].loss if held is not None else None

    def begin(self, start: StartRecord, now_s: float) -> tuple[Commit, ...]:
        """A generation's start: what it undoes is history no more. Returns commits that it tells first."""
        number = start.generation
        generation = self.generation(number)
        generation.start, generation.started_s = start, now_s
        started = [g.start for g in self.generations if g.start is not None]
        self._lineage = ()
        for each in started:
            self._lineage = extend_lineage(self._lineage, each.generation, each.version.step)
        for step in [s for s, (g, _) in self._history.items() if not is_history(Version(s, g), self._lineage)]:
            del self._history[step]
        self._committed_step = max(started[-1].version.step, max(self._history, default=0))
        rolled = start.roll_forward
        told = rolled is not None and self.commit(start.version.generation, rolled)
        return (rolled,) if told and rolled is not None else ()

    def commit(self, number: int, commit: Commit, *, by_rank_0: bool = False) -> bool:
        """Take note of one commit of generation `number`; whether it was news and counts."""
        commits = self.generation(number).commits
        is_known = commit.step in commits
        if is_known and not by_rank_0:
            return False
        # All ranks learn the same loss from the vote; rank 0's clock is kept, so that gaps are of one clock.
        self.generation(number).add(commit)
        held = self._history.get(commit.step)
        if not is_history(Version(commit.step, number), self._lineage) or (held is not None and held[0] > number):
            return False
        self._history[commit.step] = (number, commit)
        self._committed_step = max(self._committed_step, commit.step)
        return not is_known

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

    def last_commit_before(self, number: int) -> Commit | None:
        """The newest, in time, of all earlier generations, whether it was undone or not."""
        ends = [g.last_commit for g in self.generations if g.number < number]
        return max((end for end in ends if end is not None), key=lambda commit: commit.time_s, default=None)

    def downtime_s(self, number: int) -> float | None:
        """Last commit before it to its first, less one median step; None where either is missing."""
        before, after = self.last_commit_before(number), self.generation(number).first_commit
        if before is None or after is None:
            return None
        return after.time_s - before.time_s - (self.median_step_s(number) or 0.0)

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
                reached = generation.last_step
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
        times = [commit.time_s for generation in self._generations.values() for commit in generation.commits.values()]
        if len(times) < 2 or max(times) <= min(times):
            return None
        medians = {number: self.median_step_s(number) or 0.0 for number in self._generations}
        first = min(self._history, default=0)
        useful_s = 0.0
        for step, (number, commit) in self._history.items():
            before = self._history.get(step - 1)
            if before is not None and before[0] == number:
                useful_s += commit.time_s - before[1].time_s
            elif step != first:
                useful_s += medians[number]
        return useful_s / (max(times) - min(times))


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None

"""The replay itself: a policy is told of every change, says what it does, and time runs."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

from holdfast.model.ids import NodeId
from holdfast.simulator.replay.trace import Change, Trace
from holdfast.simulator.replay.yields import Layouts

# What time is lost to, besides what policies name.
SLOWER, WAITING = "slower layout", "too few nodes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a policy sees. `present`: everybody who is there, and since when. `busy_s`: what is left of the stall in
    which this finds the job. `change` is None when the policy asked for the moment itself."""

    now_s: float
    present: Mapping[NodeId, float]
    change: Change | None
    busy_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What a policy does. `stalls`: seconds without a step from now on, by cause; what was left of an earlier stall is
    over with it. Work that was committed and is lost counts as the time to do it again. None for `stalls`: it lets
    things be as they are."""

    rate: float  # samples a second, once it runs
    layout: str
    used: int = 0  # nodes
    stalls: Mapping[str, float] | None = None
    moved_bytes: int = 0
    remote_bytes: int = 0
    again_s: float | None = None  # ask again then, if nothing changes before


class Policy(Protocol):
    """A system that trains on what nodes there are. One object replays one trace."""

    @property
    def name(self) -> str: ...

    def decide(self, scene: Scene) -> Turn: ...


@dataclass(frozen=True, slots=True)
class Happening:
    """For plots and reports."""

    at_s: float
    layout: str
    used: int
    stall_s: float
    causes: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of it. `lost_samples`, by cause, and `samples` add up to what the ideal committed."""

    policy: str
    seconds: float
    samples: float = 0.0
    ideal_samples: float = 0.0
    generations: int = 0
    moved_bytes: int = 0
    remote_bytes: int = 0
    node_seconds: float = 0.0  # of all that were there, and paid for
    lost_samples: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    stalled_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    happenings: list[Happening] = field(default_factory=list)
    times_s: list[float] = field(default_factory=lambda: [0.0])
    totals: list[float] = field(default_factory=lambda: [0.0])  # committed by `times_s`, straight in between

    @property
    def goodput(self) -> float:
        """Share of what the best plan for the nodes present would have committed if transitions were free."""
        return self.samples / self.ideal_samples if self.ideal_samples else 1.0

    @property
    def now_s(self) -> float:
        """As far as it is told."""
        return self.times_s[-1]

    def add(self, until_s: float, rate: float, ideal: float, cause: str) -> None:
        """Until then so many samples a second were committed; what is short of the ideal's is lost to `cause`."""
        seconds = until_s - self.now_s
        self.samples += rate * seconds
        self.ideal_samples += ideal * seconds
        self.lost_samples[cause] += (ideal - rate) * seconds
        self.times_s.append(until_s)
        self.totals.append(self.samples)

    def committed(self, at_s: float) -> float:
        """Samples by then."""
        at = bisect_right(self.times_s, at_s)
        if at == len(self.times_s):
            return self.totals[-1]
        before_s, after_s = self.times_s[at - 1], self.times_s[at]
        share = (at_s - before_s) / (after_s - before_s)
        return self.totals[at - 1] + share * (self.totals[at] - self.totals[at - 1])

    def within(self, start_s: float, stop_s: float) -> float:
        return self.committed(stop_s) - self.committed(start_s)


def replay(trace: Trace, policy: Policy, ideal: Layouts) -> Outcome:
    """The whole trace. `ideal`: whose best layout for the nodes present would be the best there is."""
    return _Replay(trace, policy, ideal).finish()


def worst_window(one: Outcome, other: Outcome, window_s: float) -> tuple[float, float]:
    """(least lead of `one` over `other` in samples, start of that window), over all windows of the length.

    Both totals are straight between their corners, so the lead is least where a window begins or ends at one.
    """
    end_s = min(one.times_s[-1], other.times_s[-1])
    window_s = min(window_s, end_s)
    corners = {*one.times_s, *other.times_s}
    starts = sorted({start for at_s in corners for start in (at_s, at_s - window_s) if 0 <= start <= end_s - window_s})
    leads = ((one.within(at, at + window_s) - other.within(at, at + window_s), at) for at in starts)
    return min(leads, default=(0.0, 0.0))


class _Replay:
    def __init__(self, trace: Trace, policy: Policy, ideal: Layouts) -> None:
        self._trace, self._policy, self._ideal = trace, policy, ideal
        self._present: dict[NodeId, float] = {}
        self._outcome = Outcome(policy=policy.name, seconds=trace.duration_s)
        self._rate = 0.0
        self._stalls: list[tuple[float, str]] = []  # (until, cause), in order

    def finish(self) -> Outcome:
        again_s: float | None = None
        # What happens in the last moment has no time left to matter.
        counted = [change for change in self._trace.changes if change.at_s < self._trace.duration_s]
        for change in [*counted, None]:
            until_s = change.at_s if change is not None else self._trace.duration_s
            while again_s is not None and again_s < until_s:
                self._pass(again_s)
                again_s = self._act(None)
            self._pass(until_s)
            if change is not None:
                for node in change.left:
                    del self._present[node]
                self._present.update(dict.fromkeys(change.joined, change.at_s))
                again_s = self._act(change)
        return self._outcome

    def _act(self, change: Change | None) -> float | None:
        busy_s = max(0.0, self._stalls[-1][0] - self._now_s) if self._stalls else 0.0
        turn = self._policy.decide(Scene(now_s=self._now_s, present=self._present, change=change, busy_s=busy_s))
        self._rate = turn.rate
        outcome = self._outcome
        outcome.moved_bytes += turn.moved_bytes
        outcome.remote_bytes += turn.remote_bytes
        if turn.stalls is not None:
            ends = accumulate(turn.stalls.values(), initial=self._now_s)
            next(ends)
            self._stalls = list(zip(ends, turn.stalls, strict=True))
            outcome.generations += 1
            stall_s = sum(turn.stalls.values())
            outcome.happenings.append(Happening(self._now_s, turn.layout, turn.used, stall_s, tuple(turn.stalls)))
        assert turn.again_s is None or turn.again_s > self._now_s, f"{self._policy.name} asks for the past"
        return turn.again_s

    def _pass(self, until_s: float) -> None:
        """Time goes by."""
        ideal = self._ideal.best(len(self._present)).rate
        self._outcome.node_seconds += len(self._present) * (until_s - self._now_s)
        while self._stalls and self._now_s < until_s:
            end_s, cause = self._stalls[0]
            stop_s = min(end_s, until_s)
            self._outcome.stalled_s[cause] += stop_s - self._now_s
            self._run(stop_s, 0.0, ideal, cause)
            if end_s <= stop_s:
                self._stalls.pop(0)
        self._run(until_s, self._rate, ideal, SLOWER if self._rate else WAITING)

    def _run(self, until_s: float, rate: float, ideal: float, cause: str) -> None:
        if until_s > self._now_s:
            self._outcome.add(until_s, rate, ideal, cause)

    @property
    def _now_s(self) -> float:
        return self._outcome.now_s

"""What was committed and what was lost, in an `Outcome`, where steps are told of one by one."""

from holdfast.simulator.replay.replaying import SLOWER, Happening, Outcome
from holdfast.simulator.replay.trace import Trace
from holdfast.simulator.replay.yields import Layouts

REDONE, UNFINISHED = "redone", "unfinished step"


class Account:
    """Time must go forward; what is not accounted for yet is left to the next call."""

    def __init__(self, policy: str, trace: Trace, ideal: Layouts) -> None:
        self.outcome = Outcome(policy=policy, seconds=trace.duration_s, node_seconds=trace.node_seconds)
        self._stretches = [(s.stop_s, ideal.best(s.nodes).rate) for s in trace.stretches()]
        self._at = 0
        self._most_steps = 0  # committed ever

    def began(self, at_s: float, layout: str, used: int, cause: str) -> None:
        """A generation runs, after a stall for this cause."""
        self.outcome.generations += 1
        now_s = self.outcome.now_s
        self.outcome.happenings.append(Happening(now_s, layout, used, at_s - now_s, (cause,)))

    def steps(self, first: int, last: int, start_s: float, stop_s: float, rate: float) -> None:
        """Steps (first, last] were committed in that time; those that were committed before count as lost time."""
        again = max(0, min(self._most_steps, last) - first)
        if again:
            self.to(start_s + (stop_s - start_s) * again / (last - first), 0.0, REDONE)
        self.to(stop_s, rate, SLOWER)
        self._most_steps = max(self._most_steps, last)

    def finish(self, step: int, samples_a_step: int) -> Outcome:
        """The end, at which so many steps are committed: what was gone back from and not done again counts no more."""
        lost = max(0, self._most_steps - step) * samples_a_step
        self.outcome.samples -= lost
        self.outcome.totals[-1] = self.outcome.samples
        if lost:
            self.outcome.lost_samples[REDONE] += lost
        return self.outcome

    def to(self, until_s: float, rate: float, cause: str) -> None:
        """Until then so many samples a second were committed; what is short of the ideal is lost to `cause`."""
        outcome = self.outcome
        while (now_s := outcome.now_s) < until_s:
            while self._at < len(self._stretches) - 1 and self._stretches[self._at][0] <= now_s:
                self._at += 1
            end_s, ideal = self._stretches[self._at]
            stop_s = min(until_s, end_s) if end_s > now_s else until_s
            outcome.add(stop_s, rate, ideal, cause)
            if not rate:
                outcome.stalled_s[cause] += stop_s - now_s

"""How likely nodes are to leave, from what has happened so far.

Losses come in moments: a cloud that takes nodes back takes several at once. So moments are counted
apart from the nodes that go in them. Each is estimated with a Gamma prior for a Poisson count (Gelman et al.,
Bayesian Data Analysis), which a few hours outweigh. The forecast that losses now are more or less
frequent than ever forgets old ones; it is used only while it foretold the recent past better than none.
"""

from dataclasses import dataclass, field, replace
from math import inf, log

from holdfast.model.measured import Struck

# The forecast forgets half of what it saw in this time, and is judged by what it foretold in twice that.
_FORGET_S = 1800.0
_JUDGE_S = 2 * _FORGET_S


@dataclass(frozen=True, slots=True)
class Prior:
    """What is known beforehand: so many events in so many seconds."""

    events: float
    seconds: float

    def __post_init__(self) -> None:
        if not (self.events > 0 and self.seconds > 0):
            raise ValueError(f"prior of {self.events} events in {self.seconds} s; both should be above 0")


@dataclass(frozen=True, slots=True)
class Rate:
    """Events a second: prior and data in one. Immutable; `after` makes the next."""

    events: float
    seconds: float
    prior: Prior

    @staticmethod
    def of(prior: Prior) -> "Rate":
        return Rate(prior.events, prior.seconds, prior)

    @property
    def per_s(self) -> float:
        return self.events / self.seconds

    def after(self, seconds: float, events: int, *, forget_s: float = inf) -> "Rate":
        """With what was seen in further `seconds`; data older than `forget_s` counts half, the prior in full."""
        kept = 0.5 ** (seconds / forget_s) if forget_s < inf else 1.0
        return replace(
            self,
            events=self.prior.events + (self.events - self.prior.events) * kept + events,
            seconds=self.prior.seconds + (self.seconds - self.prior.seconds) * kept + seconds,
        )


@dataclass(frozen=True, slots=True)
class Moments:
    """How often something happens to the job: the plain estimate, and the forecast that may be better."""

    plain: Rate
    recent: Rate
    lead: float = 0.0  # log likelihood of the recent past under `recent` less that under `plain`

    @staticmethod
    def of(prior: Prior) -> "Moments":
        return Moments(Rate.of(prior), Rate.of(prior))

    @property
    def per_s(self) -> float:
        return (self.recent if self.lead > 0 else self.plain).per_s

    def after(self, seconds: float, events: int) -> "Moments":
        """What was foretold is judged before what happened is learned."""
        gained = _log_likelihood(self.recent.per_s, seconds, events) - _log_likelihood(
            self.plain.per_s, seconds, events
        )
        return Moments(
            self.plain.after(seconds, events),
            self.recent.after(seconds, events, forget_s=_FORGET_S),
            self.lead * 0.5 ** (seconds / _JUDGE_S) + gained,
        )


def _log_likelihood(per_s: float, seconds: float, events: int) -> float:
    """Of a Poisson count, less what does not depend on the rate."""
    return (events * log(per_s) if events else 0.0) - per_s * seconds


# Some node of the job is lost about every half hour.
MOMENT_PRIOR = Prior(1.0, 1_800.0)


@dataclass(frozen=True, slots=True)
class Outlook:
    """All that is believed of a job's nodes. Immutable; `after` makes the next."""

    moments: Moments = field(default_factory=lambda: Moments.of(MOMENT_PRIOR))
    lost: float = 1.0  # nodes lost in all moments, and one in the prior's
    struck: float = 1.0

    @staticmethod
    def of(struck: Struck) -> "Outlook":
        """As it was written down."""
        plain = Rate(struck.events, struck.seconds, MOMENT_PRIOR)
        recent = Rate(struck.recent_events, struck.recent_s, MOMENT_PRIOR)
        return Outlook(Moments(plain, recent, struck.lead), struck.lost, struck.moments)

    @property
    def written(self) -> Struck:
        """To go on from."""
        plain, recent = self.moments.plain, self.moments.recent
        return Struck(
            events=plain.events,
            seconds=plain.seconds,
            recent_events=recent.events,
            recent_s=recent.seconds,
            lead=self.moments.lead,
            lost=self.lost,
            moments=self.struck,
        )

    @property
    def nodes_per_moment(self) -> float:
        """That go together."""
        return self.lost / self.struck

    def loss_per_s(self, used: int, present: int) -> float:
        """How often a moment takes one of `used` nodes of `present`, if it takes any alike."""
        if not used or present < 1:
            return 0.0
        spared = (1 - min(used, present) / present) ** self.nodes_per_moment
        return float(self.moments.per_s * (1 - spared))

    def after(self, seconds: float, lost: int) -> "Outlook":
        """With what was seen: nothing for `seconds`, then so many nodes were lost at once."""
        return Outlook(
            moments=self.moments.after(seconds, 1 if lost else 0),
            lost=self.lost + lost,
            struck=self.struck + (1 if lost else 0),
        )

"""The data plane of one generation: who has arrived, what was sent, who has voted, who was lost.

What was sent stays sent: a rank may still get what a peer handed over before it died, or may not. The scheduler
decides, by letting it go on or break.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from holdfast.control.snapshotting import Standing, Tally
from holdfast.model.ids import SlotId
from holdfast.model.plan import Plan, Span
from holdfast.model.records import StartRecord
from holdfast.simulator.weights import State, digest_of


class ViolationError(AssertionError):
    """A promise was broken."""


def require(holds: bool, message: str) -> None:
    """Raises: ViolationError."""
    if not holds:
        raise ViolationError(message)


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one rank brings to the reduction of a step."""

    blocks: Span
    states: Mapping[int, State]


@dataclass(slots=True)
class Wires:
    start: StartRecord
    salt: int
    arrived: set[SlotId] = field(default_factory=set)
    lost: set[SlotId] = field(default_factory=set)  # died, broke or was aborted
    closed: set[SlotId] = field(default_factory=set)  # ended as it should
    sent: dict[tuple[int, SlotId], State] = field(default_factory=dict)  # by layer and target
    given: dict[int, dict[SlotId, Contribution]] = field(default_factory=dict)  # by step
    votes: dict[int, dict[SlotId, bool]] = field(default_factory=dict)  # by step; -1 is the first vote
    standings: dict[int, dict[SlotId, Standing]] = field(default_factory=dict)  # as votes
    digests: dict[int, int] = field(default_factory=dict)
    movers: frozenset[SlotId] = field(init=False)
    ranks: frozenset[SlotId] = field(init=False)

    def __post_init__(self) -> None:
        self.movers = frozenset(slot for t in self.start.transfers for slot in (t.source, t.target))
        self.ranks = frozenset(self.plan.slots) if self.plan is not None else frozenset()

    @property
    def plan(self) -> Plan | None:
        return self.start.plan

    def digest(self, step: int) -> int:
        """Of a step that every rank has contributed to."""
        if step not in self.digests:
            self.digests[step] = self._reduce(step)
        return self.digests[step]

    def _reduce(self, step: int) -> int:
        plan, given = self.plan, self.given[step]
        assert plan is not None
        assert given.keys() == self.ranks
        states: list[State] = []
        for layer in range(plan.layer_count):
            copies = {given[plan.slots[rank]].states[layer] for rank in plan.holders(layer)}
            if len(copies) != 1:
                raise ViolationError(f"replicas of layer {layer} differ when step {step} is reduced")
            states.append(copies.pop())
        blocks = [block for pipeline in plan.pipelines for block in given[pipeline.stages[0].slot].blocks]
        return digest_of(step, states, sorted(blocks), self.salt)

    def is_given(self, step: int) -> bool:
        """Whether every rank has contributed."""
        return len(self.given.get(step, ())) == len(self.ranks)

    def is_voted(self, step: int) -> bool:
        return len(self.votes.get(step, ())) == len(self.ranks)

    def stop_wanted(self, step: int) -> bool:
        return any(self.votes[step].values())

    def tally(self, step: int) -> Tally:
        """What ranks said of their snapshots."""
        return Tally.of(self.standings[step].values())

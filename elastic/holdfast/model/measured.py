"""What running steps told of a job, and what was carried from one generation to the next."""

from dataclasses import dataclass
from math import isfinite

from holdfast.model.ids import NodeId, SlotId


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What layers and slots turned out to be like."""

    layer_s: tuple[float, ...] = ()  # by layer, a microbatch forward and back at speed 1; none until all were seen
    speeds: tuple[tuple[SlotId, float], ...] = ()  # of slots that are not of speed 1
    link_bytes_per_s: float = 0.0  # between nodes, by what layers took to move; 0: too little moved to tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Struck:
    """How often the job lost nodes (`planner.hazard`): moments in so many seconds, priors included, and of late;
    `lead`: how much better what is of late foretold them; `lost` nodes in `moments`."""

    events: float
    seconds: float
    recent_events: float
    recent_s: float
    lead: float
    lost: float
    moments: float

    def __post_init__(self) -> None:
        positive = (self.events, self.seconds, self.recent_events, self.recent_s, self.lost, self.moments)
        if not (all(isfinite(value) and value > 0 for value in positive) and isfinite(self.lead)):
            raise ValueError(f"struck: {positive} should be finite and above 0, and lead, {self.lead}, finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotPace:
    """What a microbatch takes on a slot of late, forward and backward, by layer."""

    slot: SlotId
    layer_s: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceRecord:
    """paces/<generation>/<node>: told once it is known, and again when it is not true any more."""

    generation: int
    node: NodeId
    slots: tuple[SlotPace, ...]

    def __post_init__(self) -> None:
        if others := [str(pace.slot) for pace in self.slots if pace.slot.node != self.node]:
            raise ValueError(f"slots: {self.node} tells of {', '.join(others)}; should be its own")

"""What running steps told of a job, and what was carried from one generation to the next."""

from dataclasses import dataclass

from holdfast.model.ids import NodeId, SlotId


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What layers and slots turned out to be like."""

    layer_s: tuple[float, ...] = ()  # by layer, a microbatch forward and back at speed 1; none until all were seen
    speeds: tuple[tuple[SlotId, float], ...] = ()  # of slots that are not of speed 1


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
    incarnation: str
    slots: tuple[SlotPace, ...]

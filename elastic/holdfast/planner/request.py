"""What the planner is asked: which slots there are, what the layers cost there, and what is wished for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from holdfast.model.ids import NodeId, SlotId
from holdfast.planner.cost import Costs, in_ticks, prior_gradients, to_ticks


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to plan for. What layers cost is of one microbatch, in seconds or relative, all in the same unit."""

    slots: tuple[SlotId, ...]  # usable; sorted here
    layer_costs: tuple[float, ...]  # forward and backward on a slot of speed 1
    layer_bytes: tuple[int, ...]  # state, which moves when the layer does
    blocks: int  # of the global batch
    block_size: int  # microbatches
    depth: int | None = None  # wanted stages a pipeline; None: the planner decides
    memory_per_slot_bytes: int | None = None
    domains: Mapping[NodeId, str] = field(default_factory=dict)  # failure domain; a node not listed is its own
    held: Mapping[SlotId, frozenset[int]] = field(default_factory=dict)  # layers at the step to start from
    copies: int = 2  # wanted of each layer, in different failure domains
    speeds: Mapping[SlotId, float] = field(default_factory=dict)  # of slots that are not of speed 1
    memory_bytes: Mapping[SlotId, int] = field(default_factory=dict)  # of slots that differ from the rest
    resident_bytes: tuple[int, ...] = ()  # that a layer takes beside activations; default: layer_bytes
    activation_bytes: tuple[int, ...] = ()  # that a microbatch in flight keeps of a layer; default: none
    boundary_costs: tuple[float, ...] = ()  # one message across a stage boundary after the layer; default: free
    stage_cost: float = 0.0  # of a microbatch, to every stage beside its layers
    load_cost: float = 0.0  # of reading a microbatch's samples, before the first stage begins
    reduction_costs: tuple[float, ...] = ()  # sending the layer's gradient once; default: a prior by bytes

    def __post_init__(self) -> None:
        object.__setattr__(self, "slots", tuple(sorted(self.slots)))
        if len(set(self.slots)) != len(self.slots):
            raise ValueError(f"slots: {[str(slot) for slot in self.slots]} should name each slot once")
        if not self.layer_costs or len(self.layer_costs) != len(self.layer_bytes):
            raise ValueError(
                f"layer_costs: {len(self.layer_costs)} given for {len(self.layer_bytes)} layer_bytes; "
                "should be as many, and at least one"
            )
        if not all(isfinite(cost) and cost >= 0 for cost in self.layer_costs) or min(self.layer_bytes) < 0:
            raise ValueError("layer_costs and layer_bytes: should be finite and not negative")
        self._check_by_layer()
        for name in ("stage_cost", "load_cost"):
            if not (isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name}: {getattr(self, name)} should be finite and not negative")
        for name in ("blocks", "block_size", "copies"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} should be at least 1")
        if self.depth is not None and self.depth < 1:
            raise ValueError(f"depth: {self.depth} should be at least 1, or None")
        if wrong := {str(slot): speed for slot, speed in self.speeds.items() if not (isfinite(speed) and speed > 0)}:
            raise ValueError(f"speeds: {wrong} should be finite and above 0; leave out a slot that is not to be used")

    def _check_by_layer(self) -> None:
        for name in ("resident_bytes", "activation_bytes", "boundary_costs", "reduction_costs"):
            given = getattr(self, name)
            if given and len(given) != len(self.layer_costs):
                raise ValueError(f"{name}: {len(given)} given for {len(self.layer_costs)} layers; give all or none")
            if not all(isfinite(value) and value >= 0 for value in given):
                raise ValueError(f"{name}: {given} should be finite and not negative")

    def speed(self, slot: SlotId) -> float:
        """1 unless given."""
        return self.speeds.get(slot, 1.0)

    def memory(self, slot: SlotId) -> int | None:
        """Bytes; None: no limit."""
        return self.memory_bytes.get(slot, self.memory_per_slot_bytes)

    def in_ticks(self) -> Costs:
        """Its layers in integers."""
        compute, tick = to_ticks(self.layer_costs)
        none = (0,) * len(compute)
        if self.reduction_costs:
            gradients = in_ticks(self.reduction_costs, tick)
        else:
            gradients = prior_gradients(self.layer_bytes, sum(compute))
        return Costs(
            compute=compute,
            boundaries=in_ticks(self.boundary_costs, tick) or none,
            gradients=gradients,
            resident=self.resident_bytes or self.layer_bytes,
            activations=self.activation_bytes or none,
            stage=in_ticks([self.stage_cost], tick)[0],
            load=in_ticks([self.load_cost], tick)[0],
            tick=tick,
        )

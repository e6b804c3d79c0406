"""What a model's layers cost and what the nodes that run them can do: all that the planner knows beforehand.

Pure values. Times are seconds of one microbatch on a slot of speed 1; a slot of speed 0.5 takes twice as long.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from holdfast.model.ids import SlotId


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerProfile:
    """One layer, for one microbatch. `state_bytes`: parameters, buffers and optimizer state, what moves when the layer
    moves; `activation_bytes`: kept from its forward to its backward; `output_bytes`: what a stage boundary after it
    sends (and, of the gradient, what it gets back); `update_s`: its share of the optimizer's step."""

    name: str
    forward_s: float
    backward_s: float
    param_bytes: int
    state_bytes: int
    activation_bytes: int
    output_bytes: int
    update_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("forward_s", "backward_s", "update_s"):
            value = getattr(self, name)
            if not (isfinite(value) and value >= 0):
                raise ValueError(f"{name} of layer {self.name!r} is {value}; give seconds, 0 or more")
        for name in ("param_bytes", "state_bytes", "activation_bytes", "output_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} of layer {self.name!r} is {getattr(self, name)}; give bytes, 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A message of n bytes takes latency_s + n / bytes_per_s."""

    bytes_per_s: float
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.bytes_per_s > 0 or not self.latency_s >= 0:
            raise ValueError(f"link of {self.bytes_per_s} bytes/s and {self.latency_s} s; both must make sense")

    def seconds(self, size_bytes: float) -> float:
        """What a message of that size takes."""
        return self.latency_s + size_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A Program on a kind of slot. `fingerprint` tells model, microbatch, dtype and device apart; `fixed_s`: what a
    step costs beside its work (vote, bookkeeping); `speeds`: slots that are not of speed 1; `load_s`: reading a
    microbatch's samples; `stage_s`: what a microbatch costs a stage beside its layers; `crowded_speed`: of a slot while
    all cores of a machine that slots share are busy; `is_measured`: or else costs of layers are relative, what joins
    the nodes is a guess, and nothing beside the layers is known."""

    fingerprint: str
    layers: tuple[LayerProfile, ...]
    between_nodes: Link
    within_node: Link
    fixed_s: float = 0.0
    speeds: Mapping[SlotId, float] = field(default_factory=dict)
    load_s: float = 0.0
    stage_s: float = 0.0
    crowded_speed: float = 1.0
    is_measured: bool = True

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("layers: a profile needs at least one")
        for name in ("fixed_s", "load_s", "stage_s"):
            if not (isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} is {getattr(self, name)}; give seconds, 0 or more")
        if not 0 < self.crowded_speed <= 1:
            raise ValueError(f"crowded_speed is {self.crowded_speed}; should be above 0, and at most 1")
        if slow := {str(slot): speed for slot, speed in self.speeds.items() if not (isfinite(speed) and speed > 0)}:
            raise ValueError(f"speeds: {slow} should be above 0")

    def speed(self, slot: SlotId) -> float:
        """1 unless it was found to be slower or faster."""
        return self.speeds.get(slot, 1.0)

    def link(self, one: SlotId, other: SlotId) -> Link:
        """What joins the two."""
        return self.within_node if one.node == other.node else self.between_nodes

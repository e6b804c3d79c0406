"""From what was measured of a Program and its nodes to what the planner is asked."""

from collections import Counter
from collections.abc import Mapping
from typing import TypedDict, Unpack

from holdfast.model.ids import NodeId, SlotId
from holdfast.planner.memory import gradients_held_most
from holdfast.planner.profile import Profile
from holdfast.planner.request import Request

# Speeds are told apart in steps of this: planning takes the longer the more kinds of slots there are.
SPEED_STEP = 0.05


class Wishes(TypedDict, total=False):
    """What else a Request says; see there."""

    depth: int | None
    memory_per_slot_bytes: int | None
    memory_bytes: Mapping[SlotId, int]
    domains: Mapping[NodeId, str]
    held: Mapping[SlotId, frozenset[int]]
    copies: int


def request_of(
    profile: Profile,
    *,
    slots: tuple[SlotId, ...],
    blocks: int,
    block_size: int,
    canonical: bool = True,
    **wishes: Unpack[Wishes],
) -> Request:
    """A request in seconds, whose step has no fixed part and no optimizer in it (`timeline.estimate` has both).

    Where there are several nodes every stage boundary is taken to lie between two of them, and all slots of a node to
    share what joins it to the others when gradients are reduced. Messages during reduction count without latency.
    Where links are not known boundaries are taken to be free, and reduction to cost a share of a microbatch (Request).
    `canonical`: reduction keeps several gradients of a parameter at once; the most that any share of blocks asks for.
    """
    slots_of_node = Counter(slot.node for slot in slots)
    link, sharing = profile.between_nodes, max(slots_of_node.values(), default=1)
    if len(slots_of_node) <= 1:
        link, sharing = profile.within_node, 1
    layers, gradients = profile.layers, gradients_held_most(blocks) if canonical else 1
    return Request(
        slots=slots,
        layer_costs=tuple(layer.forward_s + layer.backward_s for layer in layers),
        layer_bytes=tuple(layer.state_bytes for layer in layers),
        blocks=blocks,
        block_size=block_size,
        speeds=_speeds(profile, slots),
        resident_bytes=tuple(layer.state_bytes + gradients * layer.param_bytes for layer in layers),
        activation_bytes=tuple(layer.activation_bytes for layer in layers),
        boundary_costs=tuple(link.seconds(layer.output_bytes) for layer in layers) if profile.is_measured else (),
        stage_cost=profile.stage_s,
        load_cost=profile.load_s,
        reduction_costs=tuple(layer.param_bytes * sharing / link.bytes_per_s for layer in layers)
        if profile.is_measured
        else (),
        **wishes,
    )


def _speeds(profile: Profile, slots: tuple[SlotId, ...]) -> dict[SlotId, float]:
    """Of slots that are not of speed 1."""
    rounded = {slot: max(1, round(profile.speed(slot) / SPEED_STEP)) * SPEED_STEP for slot in slots}
    return {slot: speed for slot, speed in rounded.items() if speed != 1}

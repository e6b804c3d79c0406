"""What the planner is asked, with all that is known of layers and slots by now. `holdfast plan` asks the same way."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from holdfast.control.job import Job
from holdfast.control.view import View
from holdfast.model.ids import SlotId
from holdfast.model.measured import Measured
from holdfast.model.messages import CHECKPOINT
from holdfast.model.records import NodeAck
from holdfast.planner.profile import LayerProfile, Profile
from holdfast.planner.request import Request
from holdfast.planner.requesting import request_of
from holdfast.planner.straggler import Seen, learn

# Of slots that are not of the usual speed so many are named.
_NAMED_MAX = 8
# What takes less to move than groups take to form says little of a link.
_TELLING_BYTES = 64 << 20


def measured_at_first(job: Job) -> Measured:
    """Before anything ran."""
    return Measured(speeds=tuple(sorted(job.profile.speeds.items())))


def measured_by(job: Job, before: Measured, seen: Seen) -> Measured:
    """With what slots told."""
    layers = job.profile.layers
    profile_s = [layer.forward_s + layer.backward_s for layer in layers] if job.profile.is_measured else ()
    return learn(before, seen, len(layers), profile_s)


def measured_when_stopped(job: Job, view: View) -> Measured:
    """With what the inventories of the present generation tell."""
    assert view.generation is not None
    return measured_by(job, view.generation.measured, {i.slot: dict(i.layer_cost_s) for i in view.inventories})


def link_bytes_per_s(ack: NodeAck) -> float:
    """What joins this node to others, by the slot that got layers fastest; 0: too little came to tell, or what came
    waited for a checkpoint."""
    found = [0.0]
    for start in ack.starts:
        if any(where == CHECKPOINT for where, _ in start.restored):
            continue
        far = sum(size for source, size in start.received if source.node != ack.node)
        far += sum(size for where, size in start.restored if where != ack.node)
        if far >= _TELLING_BYTES and start.move_s > 0:
            found.append(far / start.move_s)
    return max(found)


def profile_of(job: Job, measured: Measured) -> Profile:
    """The job's, as it turned out to be."""
    layers = job.profile.layers
    if measured.layer_s:
        layers = tuple(map(_scaled, layers, measured.layer_s))
    link = job.profile.between_nodes
    if not job.profile.is_measured and measured.link_bytes_per_s > 0:
        link = replace(link, bytes_per_s=measured.link_bytes_per_s)
    return replace(job.profile, layers=layers, speeds=dict(measured.speeds), between_nodes=link)


def _scaled(layer: LayerProfile, seconds: float) -> LayerProfile:
    known_s = layer.forward_s + layer.backward_s
    share = layer.forward_s / known_s if known_s else 0.0
    return replace(layer, forward_s=seconds * share, backward_s=seconds * (1 - share))


def request_for(
    job: Job, view: View, profile: Profile, slots: Sequence[SlotId], held: Mapping[SlotId, frozenset[int]]
) -> Request:
    """`held`: at the version to start from."""
    return request_of(
        profile,
        slots=tuple(slots),
        blocks=job.blocks,
        block_size=job.block_size,
        canonical=job.is_canonical,
        depth=job.depth,
        memory_per_slot_bytes=job.memory_per_slot_bytes,
        domains={slot.node: view.nodes[slot.node].domain for slot in slots},
        held={slot: held.get(slot, frozenset()) for slot in slots},
    )


def slow_slots(measured: Measured, slots: Sequence[SlotId]) -> tuple[str, ...]:
    """For people: which of these the planner gives less than others, or more, and why."""
    known = frozenset(slots)
    told = [(slot, speed) for slot, speed in measured.speeds if slot in known]
    named = tuple(f"speed: {slot} computes at {speed:.2f} of the usual speed" for slot, speed in told[:_NAMED_MAX])
    return (*named, f"speed: and {len(told) - _NAMED_MAX} other slots") if len(told) > _NAMED_MAX else named

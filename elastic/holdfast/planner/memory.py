"""What a stage holds on its slot, at most: state, gradients, activations in flight, what it sends and gets.

Exact for what the profile counts. Beside it a process needs what its libraries take, and the largest layer's workspace.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from holdfast.model.plan import Plan, Span
from holdfast.planner.profile import LayerProfile, Profile
from holdfast.planner.reduction import ROUND_BYTES, parts_of
from holdfast.planner.schedule import warm_up
from holdfast.planner.shares import subtrees


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMemory:
    """Bytes. `state`: parameters, buffers, optimizer; `activations`: of all microbatches in flight; `messages`: what
    crosses its boundaries, for which torch keeps memory for every microbatch; `exchanged`: what peers send meanwhile
    for a gradient's sum."""

    state: int
    gradients: int
    activations: int
    messages: int
    exchanged: int

    @property
    def total(self) -> int:
        """The most at once: activations are gone when gradients are exchanged."""
        return self.state + self.gradients + self.messages + max(self.activations, self.exchanged)


def stage_bytes(
    layers: Sequence[LayerProfile],
    span: Span,
    *,
    stage: int,
    depth: int,
    microbatches: int,
    gradients: int = 1,
    foreign_share: float = 0.0,
) -> StageMemory:
    """The layers of `span` as stage `stage` of `depth`, whose pipeline has so many microbatches.

    `gradients`: how many of each parameter live at once (`gradients_held`). `foreign_share`: bytes that peers send of
    a gradient at once, as a share of its own.
    """
    mine = layers[span.start : span.stop]
    param_bytes = sum(layer.param_bytes for layer in mine)
    inputs = layers[span.start - 1].output_bytes if stage > 0 else 0
    outputs = mine[-1].output_bytes if stage < depth - 1 else 0
    in_flight = min(warm_up(depth, stage), microbatches)
    return StageMemory(
        state=sum(layer.state_bytes for layer in mine),
        gradients=gradients * param_bytes,
        activations=in_flight * sum(layer.activation_bytes for layer in mine),
        messages=microbatches * (inputs + outputs),
        exchanged=round(foreign_share * min(param_bytes, ROUND_BYTES)),
    )


@cache
def gradients_held(blocks: Span, block_count: int, block_size: int) -> int:
    """The most gradients of one parameter that canonical reduction holds on a pipeline with these blocks: the sums of
    complete subtrees so far, and that of the block being computed. See worker/gradients.py."""
    most = 0
    for block in blocks:
        before = block
        # Autograd adds to the left one's gradient that of its sibling, where both are one microbatch each.
        if block_size == 1 and block % 2 and block - 1 >= blocks.start:
            before -= 1
        most = max(most, 1 + subtrees(blocks.start, before, block_count))
    return most


def gradients_held_most(blocks: int) -> int:
    """At most so many, wherever a pipeline's blocks begin and end: two a level of the tree, save at its top."""
    return max(min(blocks, 2), 2 * (blocks - 1).bit_length() - 1)


def plan_bytes(plan: Plan, profile: Profile, block_size: int, *, canonical: bool = True) -> tuple[StageMemory, ...]:
    """Of every stage of a plan, by rank."""
    parts = parts_of(plan)
    found = []
    for pipeline, own in zip(plan.pipelines, parts, strict=True):
        foreign = (sum(parts) - own) / len(parts) if canonical else 0.0
        held = gradients_held(pipeline.blocks, plan.block_count, block_size) if canonical else 1
        found += [
            stage_bytes(
                profile.layers,
                stage.layers,
                stage=number,
                depth=pipeline.depth,
                microbatches=len(pipeline.blocks) * block_size,
                gradients=held,
                foreign_share=foreign,
            )
            for number, stage in enumerate(pipeline.stages)
        ]
    return tuple(found)

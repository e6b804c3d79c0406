"""What a step costs. Costs are integers ("ticks") while planning, so that equal costs compare equal.

Sums of floats depend on their order; a tie that is broken by rounding would move layers for nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

_TICKS = 1 << 40

# What sending the gradients of the whole model once is taken to cost, as a share of one microbatch's forward and
# backward through it, where nothing was measured. A prior, free of units because layer costs may be relative.
REDUCTION_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """A model's layers, in ticks and bytes."""

    compute: tuple[int, ...]  # forward and backward of one microbatch on a slot of speed 1
    boundaries: tuple[int, ...]  # one crossing of a stage boundary after the layer
    gradients: tuple[int, ...]  # sending the layer's gradient once
    resident: tuple[int, ...]  # bytes: parameters, gradients, optimizer state
    activations: tuple[int, ...]  # bytes that a microbatch in flight keeps
    stage: int  # what a microbatch costs a stage beside its layers
    load: int  # reading a microbatch's samples, before the first stage begins
    tick: float  # what one tick is worth, in the unit that costs were given in


def to_ticks(costs: Sequence[float]) -> tuple[tuple[int, ...], float]:
    """Each cost as an integer of at least 1, and what one tick is worth. All zero: all layers cost the same."""
    total = sum(costs)
    if total <= 0:
        return (1,) * len(costs), 0.0
    return tuple(max(1, round(cost / total * _TICKS)) for cost in costs), total / _TICKS


def in_ticks(costs: Sequence[float], tick: float) -> tuple[int, ...]:
    """Other costs in the same unit; nothing where layers are free."""
    return tuple(round(cost / tick) if tick else 0 for cost in costs)


def prior_gradients(layer_bytes: Sequence[int], total_ticks: int) -> tuple[int, ...]:
    """What sending each layer's gradient once is taken to cost: its part of the `REDUCTION_SHARE` of a microbatch."""
    total = sum(layer_bytes)
    return tuple(round(REDUCTION_SHARE * total_ticks * size / total / 2) if total else 0 for size in layer_bytes)


def at_speed(ticks: int, speed: float) -> int:
    """What takes so many ticks at speed 1."""
    return ticks if speed == 1.0 else round(ticks / speed)


def pipeline_time(microbatches: int, latency: int, bottleneck: int) -> int:
    """Ticks that a pipeline takes for a step: one microbatch takes `latency` through all stages and back, and its
    slowest stage (`bottleneck`) sets the pace of those that follow.

    This is exact for 1F1B (PipeDream-Flush, ICML '21) over equal stages, and no more than that with unequal ones.
    """
    return latency + (microbatches - 1) * bottleneck


def reduction_time(pipelines: int, largest: int) -> int:
    """Ticks for reducing gradients over `pipelines` replicas: 2(P-1)/P of what the fullest slot takes to send once, be
    it around a ring (Patarasuk and Yuan, 2009) or to owners and back."""
    return 2 * (pipelines - 1) * largest // pipelines

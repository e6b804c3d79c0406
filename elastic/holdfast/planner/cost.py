"""What a step costs. Costs are integers ("ticks") while planning, so that equal costs compare equal.

Sums of floats depend on their order; a tie that is broken by rounding would move layers for nothing.
"""

from collections.abc import Sequence

_TICKS = 1 << 40

# What sending the gradients of the whole model once is taken to cost, as a share of one microbatch's forward and
# backward through it. A prior, free of units because layer costs may be relative; measured bandwidth replaces it later.
REDUCTION_SHARE = 0.1


def to_ticks(costs: Sequence[float]) -> tuple[tuple[int, ...], float]:
    """Each cost as an integer of at least 1, and what one tick is worth. All zero: all layers cost the same."""
    total = sum(costs)
    if total <= 0:
        return (1,) * len(costs), 0.0
    return tuple(max(1, round(cost / total * _TICKS)) for cost in costs), total / _TICKS


def pipeline_time(microbatches: int, depth: int, bottleneck: int) -> int:
    """Ticks that a pipeline takes for a step: 1F1B fills and drains once, and its slowest stage sets the pace."""
    return (microbatches + depth - 1) * bottleneck


def reduction_time(pipelines: int, stage_bytes_max: int, total_bytes: int, total_ticks: int) -> float:
    """Ticks for reducing gradients over `pipelines` replicas: a ring moves 2(P-1)/P of what a slot holds."""
    if pipelines == 1 or total_bytes == 0:
        return 0.0
    sent = 2 * (pipelines - 1) / pipelines * stage_bytes_max / total_bytes
    return REDUCTION_SHARE * total_ticks * sent / 2

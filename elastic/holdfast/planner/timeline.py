"""What a step of a plan takes, by an exact simulation of what the runtime does: 1F1B in every pipeline, the reduction
of each segment once all its ranks are there, the vote, the optimizer.

Left out: the sums of tied parameters, and that a slot whose optimizer is quick begins the next step before the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.model.ids import SlotId
from holdfast.model.plan import Plan
from holdfast.planner.crowding import Cores, Done, Work, simulate
from holdfast.planner.profile import Profile
from holdfast.planner.programs import programs
from holdfast.planner.schedule import Pace, run
from holdfast.planner.step_costs import StepCosts


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEstimate:
    """`pipeline_s`: until each pipeline's last gradient; `reduce_s`: from the last of them to the vote; `update_s`: of
    the slowest optimizer. `bubble`: the share of all slots' time in which they wait, 0..1."""

    seconds: float
    bubble: float
    pipeline_s: tuple[float, ...]
    reduce_s: float
    update_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """What a slot is at from `start_s` to `end_s` of the step; `microbatch` of the global batch, where it is of one."""

    slot: SlotId
    work: Work
    microbatch: int | None
    start_s: float
    end_s: float


def estimate(
    plan: Plan, profile: Profile, block_size: int, *, canonical: bool = True, cores: int | None = None
) -> StepEstimate:
    """One step of `plan`, with `block_size` microbatches a block. `canonical`: or else an all-reduce.

    `cores`: all slots run on one machine with so many cores, as in `holdfast run` on CPUs, and share them; None: every
    slot has an accelerator of its own, which takes some 0.5 us for each stage and microbatch.

    Raises:
        ValueError: plan and profile differ in layers, or a pipeline has more stages than microbatches.
    """
    costs = StepCosts.of(plan, profile, block_size, canonical=canonical)
    if cores is None:
        return _alone(costs)
    return _shared(costs, simulate(programs(costs), Cores(cores, profile.crowded_speed)))


def spans(
    plan: Plan, profile: Profile, block_size: int, *, canonical: bool = True, cores: int | None = None
) -> tuple[tuple[Busy, ...], ...]:
    """What each slot is busy with, by rank, in order of time. Arguments as for `estimate`, and far slower."""
    costs = StepCosts.of(plan, profile, block_size, canonical=canonical)
    shared = Cores(cores, profile.crowded_speed) if cores is not None else None
    return tuple(
        tuple(
            Busy(slot=slot, work=d.task.work, microbatch=d.task.microbatch, start_s=d.start_s, end_s=d.end_s)
            for d in done
        )
        for slot, done in zip(plan.slots, simulate(programs(costs), shared), strict=True)
    )


def _alone(costs: StepCosts) -> StepEstimate:
    ended: list[float] = []  # by rank
    known: dict[tuple[Pace, int], tuple[float, ...]] = {}
    for pace, microbatches, ranks in zip(costs.paces, costs.microbatches, costs.ranks_of, strict=True):
        key = (pace, len(microbatches))
        if key not in known:  # many pipelines are alike; what a stage loads depends on its number of microbatches alone
            known[key] = run(pace, len(microbatches), costs.load_s[ranks.start : ranks.stop]).end_s
        ended += known[key]
    reduced = list(ended)
    busy_s = sum(costs.load_s) + sum(costs.update_s) + costs.fixed_s * len(ended)
    for segment, seconds in zip(costs.plan.reduction_order, costs.reduce_s, strict=True):
        over_s = max(map(reduced.__getitem__, segment.ranks)) + seconds
        busy_s += seconds * len(segment.ranks)
        for rank in segment.ranks:
            reduced[rank] = over_s
    for pace, microbatches in zip(costs.paces, costs.microbatches, strict=True):
        busy_s += (sum(pace.forward_s) + sum(pace.backward_s)) * len(microbatches)
    return _estimate(costs, ended, max(reduced), max(costs.update_s), busy_s)


def _shared(costs: StepCosts, done: Sequence[Sequence[Done]]) -> StepEstimate:
    """With cores to share only what was simulated tells. A task that gets half a core is busy none the less."""
    computed = [[d for d in tasks if d.task.work in (Work.FORWARD, Work.BACKWARD)] for tasks in done]
    ended = [tasks[-1].end_s for tasks in computed]
    reduced_s = max(d.end_s for tasks in done for d in tasks if d.task.work not in (Work.REST, Work.UPDATE))
    over_s = max(tasks[-1].end_s for tasks in done)
    busy_s = sum(d.end_s - d.start_s for tasks in done for d in tasks)
    return _estimate(costs, ended, reduced_s, over_s - reduced_s - costs.fixed_s, busy_s)


def _estimate(
    costs: StepCosts, ended: Sequence[float], reduced_s: float, update_s: float, busy_s: float
) -> StepEstimate:
    seconds = reduced_s + costs.fixed_s + update_s
    waited = 1 - busy_s / (seconds * len(ended)) if seconds else 0.0
    return StepEstimate(
        seconds=seconds,
        bubble=min(1.0, max(0.0, waited)),
        pipeline_s=tuple(max(ended[rank] for rank in ranks) for ranks in costs.ranks_of),
        reduce_s=reduced_s - max(ended),
        update_s=update_s,
    )

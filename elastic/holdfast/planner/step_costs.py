"""What a plan makes of a profile: seconds of each stage, each boundary between stages, each segment's reduction."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

from holdfast.model.plan import Pipeline, Plan, Span, Stage
from holdfast.planner.profile import Profile
from holdfast.planner.reduction import Reduction
from holdfast.planner.schedule import Pace


@dataclass(frozen=True)
class StepCosts:
    """Of one step. `paces` and `microbatches` (of the global batch) by pipeline, `load_s` and `update_s` by rank,
    `reduce_s` by segment, in the order of their reduction."""

    plan: Plan
    paces: tuple[Pace, ...]
    microbatches: tuple[Span, ...]
    load_s: tuple[float, ...]
    reduce_s: tuple[float, ...]
    update_s: tuple[float, ...]
    fixed_s: float

    @cached_property
    def ranks_of(self) -> tuple[range, ...]:
        """By pipeline."""
        ends = [0, *accumulate(pipeline.depth for pipeline in self.plan.pipelines)]
        return tuple(range(start, stop) for start, stop in pairwise(ends))

    @classmethod
    def of(cls, plan: Plan, profile: Profile, block_size: int, *, canonical: bool) -> "StepCosts":
        """Raises: ValueError: plan and profile differ in layers, or a pipeline has more stages than microbatches."""
        if plan.layer_count != len(profile.layers):
            raise ValueError(f"the plan has {plan.layer_count} layers, the profile {len(profile.layers)}")
        for number, pipeline in enumerate(plan.pipelines):
            if len(pipeline.blocks) * block_size < pipeline.depth:
                raise ValueError(
                    f"pipeline {number} has {len(pipeline.blocks) * block_size} microbatches for {pipeline.depth} "
                    "stages; 1F1B needs at least as many microbatches"
                )
        layers = _Layers(profile)
        reduction = Reduction(plan, profile, canonical=canonical)
        microbatches = tuple(Span(p.blocks.start * block_size, p.blocks.stop * block_size) for p in plan.pipelines)
        return cls(
            plan=plan,
            paces=tuple(map(layers.pace, plan.pipelines)),
            microbatches=microbatches,
            load_s=tuple(
                load_s
                for pipeline, mine in zip(plan.pipelines, microbatches, strict=True)
                for load_s in _loads(pipeline, len(mine) * profile.load_s)
            ),
            reduce_s=tuple(map(reduction.seconds, plan.reduction_order)),
            update_s=tuple(map(layers.update_s, plan.stages)),
            fixed_s=profile.fixed_s,
        )


class _Layers:
    """Sums over a stage's layers, on its slot."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._forward_s = _sums(layer.forward_s for layer in profile.layers)
        self._backward_s = _sums(layer.backward_s for layer in profile.layers)
        self._update_s = _sums(layer.update_s for layer in profile.layers)

    def pace(self, pipeline: Pipeline) -> Pace:
        half_s = self._profile.stage_s / 2
        return Pace(
            tuple(self._seconds(self._forward_s, stage, half_s) for stage in pipeline.stages),
            tuple(self._seconds(self._backward_s, stage, half_s) for stage in pipeline.stages),
            tuple(
                self._profile.link(one.slot, other.slot).seconds(self._profile.layers[one.layers.stop - 1].output_bytes)
                for one, other in pairwise(pipeline.stages)
            ),
        )

    def update_s(self, stage: Stage) -> float:
        return self._seconds(self._update_s, stage)

    def _seconds(self, sums: Sequence[float], stage: Stage, more_s: float = 0.0) -> float:
        return (sums[stage.layers.stop] - sums[stage.layers.start] + more_s) / self._profile.speed(stage.slot)


def _loads(pipeline: Pipeline, load_s: float) -> list[float]:
    """The first stage reads the inputs, the last one the targets, of all microbatches before the first forward."""
    return [load_s if number in (0, pipeline.depth - 1) else 0.0 for number in range(pipeline.depth)]


def _sums(values: Iterable[float]) -> list[float]:
    return [0.0, *accumulate(values)]

"""From a timeline to what report.json says of it."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from holdfast.model.plan import Plan
from holdfast.model.records import Commit, FailureRecord, NodeAck, SlotStart
from holdfast.telemetry.report import (
    FailureReport,
    GenerationReport,
    PipelineReport,
    StageReport,
)
from holdfast.telemetry.timeline import Generation, Timeline


def pipelines_of(plan: Plan | None, block_size: int) -> tuple[PipelineReport, ...]:
    return tuple(
        PipelineReport(
            blocks=(pipeline.blocks.start, pipeline.blocks.stop),
            microbatches=len(pipeline.blocks) * block_size,
            stages=tuple(
                StageReport(node=stage.slot.node, slot=stage.slot.index, layers=(stage.layers.start, stage.layers.stop))
                for stage in pipeline.stages
            ),
        )
        for pipeline in (plan.pipelines if plan is not None else ())
    )


def generation_reports(timeline: Timeline, block_size: int) -> tuple[GenerationReport, ...]:
    return tuple(_generation_report(timeline, g, block_size) for g in timeline.generations if g.record is not None)


def failure_report(failure: FailureRecord | None) -> FailureReport | None:
    if failure is None:
        return None
    return FailureReport(where=failure.where, step=failure.step, slot=str(failure.slot), traceback=failure.traceback)


def losses_of(timeline: Timeline) -> tuple[tuple[float | None, ...], int, int]:
    """(a loss or null for each committed step, how many were not finite, how many nobody told)."""
    told = [timeline.loss(step) for step in range(1, timeline.committed_step + 1)]
    unreported = sum(loss is None for loss in told)
    not_finite = sum(loss is not None and not math.isfinite(loss) for loss in told)
    return tuple(loss if loss is not None and math.isfinite(loss) else None for loss in told), not_finite, unreported


def training_s(timeline: Timeline) -> float | None:
    """First commit to last."""
    times = [commit.time_s for generation in timeline.generations for commit in generation.commits.values()]
    return max(times) - min(times) if len(times) > 1 else None


def starts_of(acks: Sequence[NodeAck]) -> Iterator[SlotStart]:
    for ack in acks:
        yield from ack.starts


def _generation_report(timeline: Timeline, generation: Generation, block_size: int) -> GenerationReport:
    record, start, number = generation.record, generation.start, generation.number
    assert record is not None
    plan = start.plan if start is not None else None
    starts = tuple(starts_of([ack for _, ack in sorted(generation.acks.items())]))
    by_source: Counter[str] = Counter()
    by_target: Counter[str] = Counter()
    for ready in starts:
        for source, size in ready.received:
            by_source[str(source)] += size
            by_target[str(ready.slot)] += size
    before, after = timeline.last_commit_before(number), generation.first_commit
    # A stop at a boundary lets the step in flight commit: until then nothing stands still.
    stopping_s = max((t for t in (generation.begun_s, _time(before)) if t is not None), default=None)
    gaps = generation.gaps_s()
    return GenerationReport(
        number=number,
        cause=record.cause,
        reason=record.reason,
        stop=record.stop,
        members=tuple(str(ref.slot) for ref in record.members),
        leavers=record.leavers,
        action=start.action if start is not None else None,
        layout=plan.describe() if plan is not None else None,
        pipelines=pipelines_of(plan, block_size),
        start_step=start.version.step if start is not None else None,
        committed_steps=len(generation.commits),
        redone_steps=timeline.redone_steps(number),
        begun_time_s=generation.begun_s,
        median_step_s=timeline.median_step_s(number) if gaps else None,
        downtime_s=timeline.downtime_s(number),
        detect_s=_between(_time(before), stopping_s),
        stop_s=_between(stopping_s, generation.stopped_s),
        plan_s=_between(generation.stopped_s, generation.started_s),
        ready_s=_between(generation.started_s, generation.running_s),
        first_step_s=_between(generation.running_s, _time(after)),
        decided_s=_between(generation.begun_s, generation.started_s),
        form_s=max((ready.form_s for ready in starts), default=None),
        move_s=max((ready.move_s for ready in starts), default=None),
        layers_moved=len(start.transfers) if start is not None else 0,
        bytes_by_source=dict(sorted(by_source.items())),
        bytes_by_target=dict(sorted(by_target.items())),
        initialised_layers=sum(ready.initialised_layers for ready in starts),
    )


def _time(commit: Commit | None) -> float | None:
    return commit.time_s if commit is not None else None


def _between(begin_s: float | None, end_s: float | None) -> float | None:
    return end_s - begin_s if begin_s is not None and end_s is not None else None

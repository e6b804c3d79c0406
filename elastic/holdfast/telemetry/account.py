"""From a timeline to what report.json says of it."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from holdfast.model.plan import Plan
from holdfast.model.records import FailureRecord, NodeAck, SlotStart
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
    losses: list[float | None] = [None] * timeline.committed_step
    told = not_finite = 0
    for step, _, _, loss in timeline.history():
        if not 1 <= step <= len(losses):
            continue
        told += 1
        if math.isfinite(loss):
            losses[step - 1] = loss
        else:
            not_finite += 1
    return tuple(losses), not_finite, len(losses) - told


def training_s(timeline: Timeline) -> float | None:
    """First commit to last."""
    span = timeline.span_s()
    return span[1] - span[0] if span is not None else None


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
    restored: Counter[str] = Counter()
    for ready in starts:
        for source, size in ready.received:
            by_source[str(source)] += size
            by_target[str(ready.slot)] += size
        for where, size in ready.restored:
            restored[where] += size
    before_s, after_s = timeline.last_commit_before_s(number), generation.first_commit_s
    # A stop at a boundary lets the step in flight commit: until then nothing stands still.
    stopping_s = max((t for t in (generation.begun_s, before_s) if t is not None), default=None)
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
        detect_s=_between(before_s, stopping_s),
        stop_s=_between(stopping_s, generation.stopped_s),
        plan_s=_between(generation.stopped_s, generation.started_s),
        ready_s=_between(generation.started_s, generation.running_s),
        first_step_s=_between(generation.running_s, after_s),
        decided_s=_between(generation.begun_s, generation.started_s),
        form_s=max((ready.form_s for ready in starts), default=None),
        move_s=max((ready.move_s for ready in starts), default=None),
        layers_moved=len(start.transfers) if start is not None else 0,
        bytes_by_source=dict(sorted(by_source.items())),
        bytes_by_target=dict(sorted(by_target.items())),
        layers_restored=len(start.restores) if start is not None else 0,
        bytes_restored=dict(sorted(restored.items())),
        initialised_layers=sum(ready.initialised_layers for ready in starts),
    )


def _between(begin_s: float | None, end_s: float | None) -> float | None:
    return end_s - begin_s if begin_s is not None and end_s is not None else None

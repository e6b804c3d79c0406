"""What a live view shows of a run at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.model.ids import NodeId
from holdfast.model.records import Action, OutcomeRecord
from holdfast.telemetry.report import PipelineReport
from holdfast.telemetry.roster import NodeStatus
from holdfast.telemetry.run_event import RunEvent
from holdfast.telemetry.run_state import RunState
from holdfast.telemetry.timeline import Generation, Timeline

_RATE_COMMITS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """`pipelines` and `layout` are those of the newest start; empty before the first, and while holding."""

    name: str
    state: RunState
    step: int  # committed
    steps: int
    loss: float | None  # of the last committed step; may be nan
    samples_per_s: float | None
    generation: int | None
    layout: str | None
    pipelines: tuple[PipelineReport, ...]
    layer_names: tuple[str, ...]
    nodes: Mapping[NodeId, NodeStatus]
    coordinator: NodeId | None
    events: tuple[RunEvent, ...]  # the last few but for commits, oldest first
    begun_s: float | None
    outcome: OutcomeRecord | None


def state_of(timeline: Timeline, outcome: OutcomeRecord | None) -> RunState:
    if outcome is not None:
        return RunState.FINISHED
    current = timeline.current
    if current is None or not timeline.has_run:
        return RunState.STARTING
    if not (current.is_running or current.commits):
        return RunState.RESHAPING
    action = current.start.action if current.start is not None else Action.TRAIN
    return {
        Action.TRAIN: RunState.TRAINING,
        Action.HOLD: RunState.HOLDING,
        Action.FINISH: RunState.FINISHED,
    }[action]


def steps_per_s(timeline: Timeline) -> float | None:
    """Over the last commits of the newest generation that has two: what a reshape costs is not in it."""
    for generation in reversed(timeline.generations):
        rate = _rate(generation)
        if rate is not None:
            return rate
    return None


def _rate(generation: Generation) -> float | None:
    commits = generation.commits
    steps = [step for step in range(commits.last - _RATE_COMMITS, commits.last + 1) if step in commits]
    if len(steps) < 2:
        return None
    first_s, last_s = commits.time_s(steps[0]), commits.time_s(steps[-1])
    if first_s is None or last_s is None or last_s <= first_s:
        return None
    return (steps[-1] - steps[0]) / (last_s - first_s)

"""The recorder: a fold over what the rendezvous store shows of a job, for whoever watches it.

Level-triggered like the coordinator: seeing the same again changes nothing and tells nothing. Feed it a snapshot in
the order of `mod_revision`, then the watch; `now_s` is the wall clock, as commits carry it too.
"""

import dataclasses
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping

from holdfast.control.job import job_of
from holdfast.errors import ProtocolError
from holdfast.model.ids import NodeId
from holdfast.model.records import (
    CheckpointsRecord,
    Commit,
    DrainRecord,
    FailureRecord,
    GenerationRecord,
    JobRecord,
    LeaderRecord,
    NodeAck,
    NodeRecord,
    OutcomeRecord,
    ProgressRecord,
    Result,
    StartRecord,
    StopRecord,
    SuspectRecord,
)
from holdfast.model.wire import decode
from holdfast.telemetry.account import (
    failure_report,
    generation_reports,
    losses_of,
    pipelines_of,
    starts_of,
    training_s,
)
from holdfast.telemetry.live import RunView, state_of, steps_per_s
from holdfast.telemetry.report import Report
from holdfast.telemetry.roster import NodeStatus, Roster
from holdfast.telemetry.run_event import EventKind, RunEvent
from holdfast.telemetry.timeline import Generation, Timeline

log = logging.getLogger(__name__)
_EVENTS_KEPT = 50
_UNKNOWN_END = OutcomeRecord(result=Result.FAILED, reason="the run ended before the job did", step=0)


class Recorder:
    """One per watcher of a job."""

    def __init__(self, job: JobRecord, *, name: str, global_batch: int) -> None:
        """Raises: SpecError: the job's spec is not valid for this version."""
        self._job, self._name, self._global_batch = job, name, global_batch
        self._block_size = job_of(job).block_size
        self._timeline, self._roster = Timeline(), Roster()
        self._suspects: set[tuple[int, NodeId]] = set()
        self._leader: NodeId | None = None
        self._checkpoints: frozenset[str] = frozenset()  # their folders, as listed last
        self._stop: StopRecord | None = None
        self._outcome: OutcomeRecord | None = None
        self._begun_s: float | None = None
        self._seen_s: float | None = None
        self._ended_s: float | None = None
        self._events: deque[RunEvent] = deque(maxlen=_EVENTS_KEPT)

    def launched(self, node: NodeId, agent_pid: int) -> None:
        """A process was started for this node: until the store shows it, it is `starting`."""
        self._roster.launched(node, agent_pid)

    def exited(self, node: NodeId, *, cleanly: bool) -> None:
        """A node's process ended; matters only if the store never showed the node."""
        self._roster.exited(node, cleanly=cleanly)

    def apply(self, key: str, value: bytes | None, now_s: float) -> tuple[RunEvent, ...]:
        """Take note of one key of the job; `value` is None where it was deleted. What is worth telling of it."""
        self._begun_s = now_s if self._begun_s is None else self._begun_s
        self._seen_s = now_s
        _, _, kind, *rest = (*key.split("/", 3), "", "", "")
        try:
            events = tuple(self._fold(kind, NodeId(rest[0]), value, now_s))
        except ProtocolError as error:
            log.error("recorder.malformed", extra={"key": key, "error": str(error)})
            return ()
        self._events.extend(event for event in events if event.kind is not EventKind.STEP_COMMITTED)
        return events

    def nodes(self) -> Mapping[NodeId, NodeStatus]:
        return self._roster.nodes

    @property
    def step(self) -> int:
        """Steps that are committed now."""
        return self._timeline.committed_step

    def goodput(self) -> float | None:
        """As in the report, of what was seen so far and is not forgotten; computed over all of it."""
        return self._timeline.goodput()

    def forget_before(self, step: int) -> None:
        """For who watches many jobs for long, and needs no report: commits and generations take memory."""
        self._timeline.forget_before(step)
        current = self._timeline.current
        if current is not None:
            self._suspects = {suspect for suspect in self._suspects if suspect[0] >= current.number}

    def view(self) -> RunView:
        timeline, rate = self._timeline, steps_per_s(self._timeline)
        current = timeline.current
        started = next((g.start for g in reversed(timeline.generations) if g.start is not None), None)
        plan = started.plan if started is not None else None
        return RunView(
            name=self._name,
            state=state_of(timeline, self._outcome),
            step=timeline.committed_step,
            steps=self._job.steps,
            loss=timeline.loss(timeline.committed_step),
            samples_per_s=rate * self._global_batch if rate is not None else None,
            generation=current.number if current is not None else None,
            layout=plan.describe() if plan is not None else None,
            pipelines=pipelines_of(plan, self._block_size),
            layer_names=self._job.layer_names,
            nodes=self._roster.nodes,
            coordinator=self._leader,
            events=tuple(self._events),
            begun_s=self._begun_s,
            outcome=self._outcome,
        )

    def report(
        self,
        *,
        weights_sha256: str | None = None,
        optimizer_sha256: str | None = None,
        ended: OutcomeRecord | None = None,
    ) -> Report:
        """`ended`: what to say of a job for which the store shows no outcome."""
        timeline = self._timeline
        outcome = self._outcome or ended or _UNKNOWN_END
        losses, not_finite, unreported = losses_of(timeline)
        median = timeline.median_step_s()
        ended_s = self._ended_s if self._ended_s is not None else self._seen_s
        return Report(
            name=self._name,
            outcome=outcome.result,
            reason=outcome.reason,
            failure=failure_report(outcome.failure),
            steps=self._job.steps,
            steps_committed=timeline.committed_step,
            losses=losses,
            losses_not_finite=not_finite,
            losses_unreported=unreported,
            global_batch=self._global_batch,
            samples_consumed=timeline.committed_step * self._global_batch,
            weights_sha256=weights_sha256,
            optimizer_sha256=optimizer_sha256,
            layer_names=self._job.layer_names,
            begun_time_s=self._begun_s,
            ended_time_s=ended_s,
            wall_s=ended_s - self._begun_s if ended_s is not None and self._begun_s is not None else None,
            training_s=training_s(timeline),
            median_step_s=median,
            samples_per_s=self._global_batch / median if median else None,
            goodput=timeline.goodput(),
            generations=generation_reports(timeline, self._block_size),
        )

    def _fold(self, kind: str, node: NodeId, value: bytes | None, now_s: float) -> Iterator[RunEvent]:
        match kind:
            case "nodes":
                record = decode(NodeRecord, value) if value is not None else None
                yield from self._roster.node_changed(node, record, now_s)
            case "drains":
                drain = decode(DrainRecord, value) if value is not None else None
                yield from self._roster.drain_changed(node, drain, now_s)
            case "leader":
                yield from self._led(decode(LeaderRecord, value) if value is not None else None, now_s)
            case _ if value is None:
                return  # old generations are swept up
            case "generation":
                yield from self._begun(decode(GenerationRecord, value), now_s)
            case "start":
                yield from self._started(decode(StartRecord, value), now_s)
            case "acks":
                yield from self._acknowledged(decode(NodeAck, value), now_s)
            case "suspects":
                yield from self._contact_lost(decode(SuspectRecord, value), now_s)
            case "progress":
                progress = decode(ProgressRecord, value)
                yield from self._commits(((progress.generation, c) for c in progress.commits), by_rank_0=True)
            case "checkpoints":
                yield from self._listed(decode(CheckpointsRecord, value), now_s)
            case "stop":
                yield from self._stop_wanted(decode(StopRecord, value), now_s)
            case "outcome":
                yield from self._ended(decode(OutcomeRecord, value), now_s)

    def _begun(self, record: GenerationRecord, now_s: float) -> Iterator[RunEvent]:
        generation = self._timeline.generation(record.number)
        if generation.record is not None:
            return
        generation.record, generation.begun_s = record, now_s
        fields = {
            "generation": record.number,
            "cause": record.cause.value,
            "reason": record.reason,
            "members": [str(ref.slot) for ref in record.members],
            "leavers": list(record.leavers),
        }
        text = f"generation {record.number} ({record.cause.value}): {record.reason}"
        yield RunEvent(time_s=now_s, kind=EventKind.GENERATION_BEGUN, text=text, fields=fields)
        yield from self._came_further(generation, now_s)

    def _started(self, start: StartRecord, now_s: float) -> Iterator[RunEvent]:
        generation = self._timeline.generation(start.generation)
        if generation.start is not None:
            return
        told = self._timeline.begin(start, now_s)
        yield from map(self._committed, told)
        layout = start.plan.describe() if start.plan is not None else None
        redone = self._timeline.redone_steps(start.generation)
        moved = len(start.transfers)
        text = f"generation {start.generation}: {start.action.value}{f' {layout}' if layout else ''}"
        text += f" from step {start.version.step}"
        restored = len(start.restores)
        text += f", {moved} layer{'s' * (moved != 1)} to move" if moved else ""
        source = "the checkpoint" if any(not restore.sources for restore in start.restores) else "RAM"
        text += f", {restored} layer{'s' * (restored != 1)} to restore from {source}" if restored else ""
        text += f", {redone} step{'s' * (redone != 1)} to redo" if redone else ""
        text += f" ({'; '.join(start.reasons)})" if start.reasons else ""
        fields = {
            "generation": start.generation,
            "action": start.action.value,
            "layout": layout,
            "step": start.version.step,
            "redone_steps": redone,
            "layers_moved": moved,
            "layers_restored": restored,
            "reasons": list(start.reasons),
        }
        yield RunEvent(time_s=now_s, kind=EventKind.GENERATION_STARTED, text=text, fields=fields)
        yield from self._came_further(generation, now_s)

    def _acknowledged(self, ack: NodeAck, now_s: float) -> Iterator[RunEvent]:
        generation = self._timeline.generation(ack.generation)
        before = generation.acks.get(ack.node)
        if ack.waits and (before is None or not before.waits):
            text = f"{ack.node} waits for the storage that it restores from: {ack.waits}"
            fields = {"node": ack.node, "generation": ack.generation, "detail": ack.waits}
            yield RunEvent(time_s=now_s, kind=EventKind.RESTORE_WAITS, text=text, fields=fields)
        generation.acks[ack.node] = dataclasses.replace(ack, inventory=())
        yield from self._commits(self._timeline.commits_of(ack))
        yield from self._came_further(generation, now_s)

    def _came_further(self, generation: Generation, now_s: float) -> Iterator[RunEvent]:
        if generation.stopped_s is None and generation.is_stopped:
            generation.stopped_s = now_s
        if generation.running_s is not None or not generation.is_running:
            return
        generation.running_s = now_s
        starts = tuple(starts_of(tuple(generation.acks.values())))
        form_s = max((s.form_s for s in starts), default=0.0)
        move_s = max((s.move_s for s in starts), default=0.0)
        moved_bytes = sum(size for s in starts for _, size in (*s.received, *s.restored))
        text = f"generation {generation.number} runs: groups in {form_s:.2f} s, layers in {move_s:.2f} s"
        text += f" ({moved_bytes / 1e6:.1f} MB)" if moved_bytes else ""
        fields = {"generation": generation.number, "form_s": form_s, "move_s": move_s, "bytes": moved_bytes}
        yield RunEvent(time_s=now_s, kind=EventKind.GENERATION_RUNNING, text=text, fields=fields)

    def _commits(self, commits: Iterable[tuple[int, Commit]], *, by_rank_0: bool = False) -> Iterator[RunEvent]:
        timeline = self._timeline
        for number, commit in sorted(commits, key=lambda entry: entry[1].step):
            is_first = not timeline.generation(number).commits
            if not timeline.commit(number, commit, by_rank_0=by_rank_0):
                continue
            yield self._committed(commit)
            downtime_s = timeline.downtime_s(number) if is_first else None
            if downtime_s is not None:
                text = f"generation {number} trains after {downtime_s:.2f} s without a step"
                fields = {"generation": number, "downtime_s": downtime_s}
                kind = EventKind.GENERATION_RECOVERED
                yield RunEvent(time_s=commit.time_s, kind=kind, text=text, fields=fields)

    def _committed(self, commit: Commit) -> RunEvent:
        text = f"step {commit.step}/{self._job.steps}: loss {commit.loss:.4f}"
        fields = {"step": commit.step, "loss": commit.loss, "grad_norm": commit.grad_norm}
        return RunEvent(time_s=commit.time_s, kind=EventKind.STEP_COMMITTED, text=text, fields=fields)

    def _led(self, leader: LeaderRecord | None, now_s: float) -> Iterator[RunEvent]:
        node = leader.node if leader is not None else None
        if node is not None and node != self._leader:
            fields = {"node": node}
            yield RunEvent(time_s=now_s, kind=EventKind.LEADER_CHANGED, text=f"{node} coordinates", fields=fields)
        self._leader = node

    def _listed(self, record: CheckpointsRecord, now_s: float) -> Iterator[RunEvent]:
        for ref in record.committed:
            # Those of other runs, which have no generation, were there before.
            if ref.folder not in self._checkpoints and ref.version.generation:
                fields = {"step": ref.version.step, "folder": ref.folder}
                text = f"the checkpoint of step {ref.version.step} is written"
                yield RunEvent(time_s=now_s, kind=EventKind.CHECKPOINT_COMMITTED, text=text, fields=fields)
        self._checkpoints = frozenset(ref.folder for ref in record.committed)

    def _contact_lost(self, record: SuspectRecord, now_s: float) -> Iterator[RunEvent]:
        seen = (record.generation, record.node)
        if seen in self._suspects:
            return
        self._suspects.add(seen)
        text = f"{record.node} lost contact: {record.detail}"
        fields = {"node": record.node, "generation": record.generation, "detail": record.detail}
        yield RunEvent(time_s=now_s, kind=EventKind.CONTACT_LOST, text=text, fields=fields)

    def _failed(self, record: FailureRecord, now_s: float) -> Iterator[RunEvent]:
        text = f"the user's code failed at step {record.step} on {record.slot}, in {record.where}"
        fields = {
            "slot": str(record.slot),
            "step": record.step,
            "where": record.where,
            "traceback": record.traceback,
        }
        yield RunEvent(time_s=now_s, kind=EventKind.FAILURE, text=text, fields=fields)

    def _stop_wanted(self, record: StopRecord, now_s: float) -> Iterator[RunEvent]:
        if self._stop is None:
            text, fields = f"the job is to stop: {record.reason}", {"reason": record.reason}
            yield RunEvent(time_s=now_s, kind=EventKind.STOP_REQUESTED, text=text, fields=fields)
        self._stop = record

    def _ended(self, record: OutcomeRecord, now_s: float) -> Iterator[RunEvent]:
        if self._outcome is not None:
            return
        self._outcome, self._ended_s = record, now_s
        self._roster.job_ended()
        if record.failure is not None:
            yield from self._failed(record.failure, now_s)
        text = f"{record.result.value}: {record.reason}"
        fields = {"result": record.result.value, "reason": record.reason, "step": record.step}
        yield RunEvent(time_s=now_s, kind=EventKind.OUTCOME, text=text, fields=fields)

"""The coordinator: events in, commands out. It decides when a generation ends and what the next one does.

Pure: time arrives with each event. Level-triggered: every decision is taken from the whole view, so it does not
matter in which order, or how often, facts arrive. A new leader feeds the store's content to a fresh one.

Invariants, kept here and checked by the tests after every event:
- generation numbers grow by one; a generation has at most one start, written when every member has answered;
- a start takes only layers that a live member holds at the step it starts from, or makes them at step 0;
- no generation ends while it is forming, except for a loss, a stall, or a drain whose deadline is near;
- a node is released only when no layer's only copy is on it.
"""

from collections.abc import Iterator

from holdfast.control.job import Job
from holdfast.control.recovery import Lineage, LostLayers, extend_lineage
from holdfast.control.start import decide_start
from holdfast.control.view import View
from holdfast.model.commands import (
    Command,
    EvictNode,
    ProbeNode,
    ReleaseDrain,
    WriteGeneration,
    WriteOutcome,
    WriteStart,
)
from holdfast.model.events import Event
from holdfast.model.records import (
    Action,
    Cause,
    DrainRecord,
    GenerationRecord,
    OutcomeRecord,
    Result,
    StartRecord,
    StopMode,
    WorkerRef,
)

# Failures of communication in a row at one step, with every node alive, after which the job ends.
_BREAKS_PER_STEP = 10
# More than any event can call for: a release for each node, and a few records.
_COMMANDS_MAX = 20_000
_CAUSES_OF_TROUBLE = (Cause.WORKER_DIED, Cause.COMMUNICATION, Cause.STALLED)


class Coordinator:
    """One per leader. `generation`, `start`: what the store holds when a leader takes over."""

    def __init__(
        self, job: Job, *, now_s: float, generation: GenerationRecord | None = None, start: StartRecord | None = None
    ) -> None:
        self._job = job
        self._view = View(membership_changed_s=now_s)
        self._lineage: Lineage = generation.lineage if generation is not None else ()
        self._ended = False
        self._probed = 0
        self._copies_lost_s: float | None = None  # when a copy of every layer was first missed
        self._lost: list[str] = []  # members lost since the last start
        self._wake_at_s: float | None = None
        if generation is not None:
            self._view.enter(generation, now_s)
            if start is not None:
                self._begin(start, now_s)

    @property
    def wake_at_s(self) -> float | None:
        """When to send TimePassed, at the latest."""
        return self._wake_at_s

    @property
    def view(self) -> View:
        return self._view

    def absorb(self, event: Event, now_s: float) -> None:
        """Take note without deciding: for a new leader that reads the store."""
        self._view.absorb(event, now_s)

    def handle(self, event: Event, now_s: float) -> tuple[Command, ...]:
        """Take note and decide."""
        self._view.absorb(event, now_s)
        commands = list(self._probes())
        self._wake_at_s = None
        while not self._ended and (command := self._next(now_s)) is not None:
            commands.append(command)
            assert len(commands) < _COMMANDS_MAX, f"decisions without end: {commands[-4:]}"
        return tuple(commands)

    def _next(self, now_s: float) -> Command | None:
        """The first thing that is due, applied to the view at once; None when all is as it should be."""
        view = self._view
        if view.failure is not None:
            failure = view.failure
            return self._end(Result.FAILED, f"step {failure.step}, {failure.slot}: {failure.where}")
        if view.generation is None:
            return self._release() or self._first_generation(now_s)
        if view.is_finished:
            stopped = view.start is not None and view.start.action is Action.FINISH
            if stopped:
                return self._end(Result.STOPPED, view.stop_reason or "stopped")
            return self._end(Result.COMPLETED, f"all {self._job.steps} steps are committed")
        return (
            self._after_loss(now_s)
            or self._after_silence(now_s)
            or (self._start(now_s) if view.start is None else None)
            or self._after_broken_communication(now_s)
            or self._release()
            or self._planned_change(now_s)
        )

    def _first_generation(self, now_s: float) -> Command | None:
        view, job = self._view, self._job
        nodes = {ref.slot.node for ref in view.live} - set(view.draining)
        if len(nodes) < job.nodes_min:
            return None
        settled_s = view.membership_changed_s + job.start_settle_s
        if len(nodes) < job.nodes_desired and now_s < settled_s:
            self._wake(settled_s)
            return None
        return self._new_generation(StopMode.BOUNDARY, Cause.START, f"{len(nodes)} nodes are ready", now_s)

    def _after_loss(self, now_s: float) -> Command | None:
        lost = self._view.lost
        if not lost:
            return None
        of_themselves = [ref for ref in lost if ref.worker in self._view.died]
        cause = Cause.WORKER_DIED if len(of_themselves) == len(lost) else Cause.LOSS
        names = ", ".join(str(ref.slot) for ref in lost)
        self._lost += [str(ref.slot) for ref in lost]
        return self._new_generation(StopMode.ABORT, cause, f"lost {names}", now_s)

    def _after_silence(self, now_s: float) -> Command | None:
        """Forming must not take for ever: who does not answer is evicted, a start that stalls is tried again."""
        view, job = self._view, self._job
        assert view.generation is not None
        if view.is_running:
            return None
        if view.start is not None:
            if now_s < view.entered_s + job.start_s:
                self._wake(view.entered_s + job.start_s)
                return None
            return self._new_generation(StopMode.ABORT, Cause.STALLED, f"no start within {job.start_s} s", now_s)
        if view.generation.stop is StopMode.ABORT:
            patience_s = view.entered_s + job.abort_s + job.start_s
            silent = sorted(view.member_nodes - view.stopped.keys())
            if silent and now_s >= patience_s:
                record = view.nodes[silent[0]]
                view.nodes.pop(silent[0])
                return EvictNode(record, "did not stop in time")
            self._wake(patience_s)
        return None

    def _start(self, now_s: float) -> Command | None:
        view, job = self._view, self._job
        assert view.generation is not None
        if not view.is_stopped:
            return self._hurry_drain(now_s)
        decided = decide_start(job, view, self._lineage)
        if isinstance(decided, LostLayers):
            return self._await_copies(decided, now_s)
        self._begin(decided, now_s)
        return WriteStart(decided)

    def _await_copies(self, lost: LostLayers, now_s: float) -> Command | None:
        """A node whose lease ended may live and come back with what it holds: give it a little time."""
        view = self._view
        self._copies_lost_s = now_s if self._copies_lost_s is None else self._copies_lost_s
        known = {ref.worker for ref in view.members}
        new = ", ".join(str(ref.slot) for ref in view.live if ref.worker not in known)
        if new:
            return self._new_generation(StopMode.ABORT, Cause.RESUME, f"{new} came", now_s)
        given_up_s = self._copies_lost_s + self._job.start_settle_s
        if now_s < given_up_s:
            self._wake(given_up_s)
            return None
        return self._end(Result.FAILED, self._explain_lost(lost))

    def _hurry_drain(self, now_s: float) -> Command | None:
        """A boundary that comes too late for a drain's deadline is not waited for."""
        view = self._view
        assert view.generation is not None
        if view.generation.stop is StopMode.ABORT:
            return None
        for node in view.draining:
            drain = view.drains[node]
            urgent_s = drain.seen_s + drain.record.grace_s / 2
            if now_s >= urgent_s:
                return self._new_generation(StopMode.ABORT, Cause.DRAIN, f"{node} must leave now", now_s)
            self._wake(urgent_s)
        return None

    def _after_broken_communication(self, now_s: float) -> Command | None:
        """Contact was lost, or someone waits for too long, yet everybody answers: try again with the same members."""
        view = self._view
        assert view.generation is not None
        aborted = view.start is None and view.generation.stop is StopMode.ABORT
        if view.suspected_s is None or aborted or view.is_holding:
            return None
        settled_s = view.suspected_s + self._job.probe_s
        if now_s < settled_s:
            self._wake(settled_s)
            return None
        return self._new_generation(StopMode.ABORT, Cause.COMMUNICATION, "communication broke, all nodes live", now_s)

    def _release(self) -> Command | None:
        """Let go of a draining node once what it held lives elsewhere."""
        view = self._view
        for node in view.draining:
            if node in view.member_nodes and not (view.is_running and self._is_spare(node)):
                continue
            record = view.drains[node].record
            released = DrainRecord(node=node, grace_s=record.grace_s, reason=record.reason, released=True)
            view.drains[node].record = released
            return ReleaseDrain(released)
        return None

    def _is_spare(self, node: str) -> bool:
        """Whether nothing of the running generation hangs on `node`."""
        start = self._view.start
        assert start is not None
        if start.plan is not None:
            return node not in start.plan.nodes
        staying = {ref.slot.node for ref in self._view.live} - set(self._view.draining)
        kept: set[int] = {t.layer for t in start.transfers if t.target.node in staying}
        for inventory in self._view.inventories:
            if inventory.slot.node in staying and start.version in (inventory.version, inventory.pending):
                kept.update(inventory.layers)
        return start.version.step == 0 or len(kept) == self._job.layer_count

    def _planned_change(self, now_s: float) -> Command | None:
        """Drains, the end, joins: at a step boundary, and only from a generation that runs."""
        view = self._view
        assert view.generation is not None
        if not view.is_running or not view.live:
            return None
        finishing = view.start is not None and view.start.action is Action.FINISH
        # A stop that found too few slots to gather the weights on waits for more.
        waiting = view.is_holding and view.generation.cause is Cause.STOP
        if view.stop_reason is not None and not finishing and not waiting:
            return self._new_generation(StopMode.BOUNDARY, Cause.STOP, view.stop_reason, now_s)
        leaving = [n for n in view.draining if n in view.member_nodes and n not in view.generation.leavers]
        if leaving:
            reasons = ", ".join(f"{node} ({view.drains[node].record.reason})" for node in leaving)
            return self._new_generation(StopMode.BOUNDARY, Cause.DRAIN, f"draining {reasons}", now_s)
        return self._joins(now_s)

    def _joins(self, now_s: float) -> Command | None:
        view, job = self._view, self._job
        known = {ref.worker for ref in view.members}
        new = [ref for ref in view.live if ref.worker not in known and ref.slot.node not in view.draining]
        if not new or not self._has_room():
            return None
        names = ", ".join(str(ref.slot) for ref in new)
        if view.is_holding:
            return self._new_generation(StopMode.BOUNDARY, Cause.RESUME, f"{names} came", now_s)
        settled_s = view.membership_changed_s + job.join_settle_s
        if now_s < settled_s:
            self._wake(settled_s)
            return None
        # A step between two joins: a node that flaps can slow training down, never stop it.
        if not view.progressed:
            return None
        return self._new_generation(StopMode.BOUNDARY, Cause.JOIN, f"{names} came", now_s)

    def _has_room(self) -> bool:
        start = self._view.start
        limit = self._job.nodes_max
        return limit is None or start is None or start.plan is None or len(start.plan.nodes) < limit

    def _new_generation(self, stop: StopMode, cause: Cause, reason: str, now_s: float) -> Command:
        view = self._view
        before = view.generation
        trouble = self._count_trouble(cause)
        limit = self._job.worker_deaths_per_step if cause is Cause.WORKER_DIED else _BREAKS_PER_STEP
        if trouble >= limit:
            return self._end(Result.FAILED, f"{reason}; {trouble} times in a row at step {view.committed_step}")
        members: tuple[WorkerRef, ...] = view.live
        record = GenerationRecord(
            number=1 if before is None else before.number + 1,
            members=members,
            leavers=tuple(n for n in view.draining if any(ref.slot.node == n for ref in members)),
            stop=stop,
            cause=cause,
            reason=reason,
            lineage=self._lineage,
            trouble_step=view.committed_step,
            trouble=trouble,
        )
        view.enter(record, now_s)
        return WriteGeneration(record)

    def _count_trouble(self, cause: Cause) -> int:
        """Failures in a row of generations that had a start, at the step where the last one was."""
        view = self._view
        before = view.generation
        known = 0 if before is None or before.trouble_step != view.committed_step else before.trouble
        return known + 1 if cause in _CAUSES_OF_TROUBLE and view.start is not None else known

    def _begin(self, start: StartRecord, now_s: float) -> None:
        self._view.begin(start, now_s)
        self._copies_lost_s, self._lost = None, []
        self._lineage = extend_lineage(self._lineage, start.generation, start.version.step)

    def _probes(self) -> Iterator[Command]:
        """Ask everyone, once a generation, when somebody lost contact."""
        generation = self._view.generation
        if generation is None or self._view.suspected_s is None or self._probed == generation.number:
            return
        self._probed = generation.number
        for node in sorted(self._view.member_nodes & self._view.nodes.keys()):
            yield ProbeNode(self._view.nodes[node])

    def _explain_lost(self, lost: LostLayers) -> str:
        view, names = self._view, self._job.layer_names
        layers = ", ".join(names[layer] for layer in lost.layers)
        left = ", ".join(sorted(view.member_nodes)) or "none"
        return (
            f"the last copy of layers {layers} is gone: no live node holds them at step {view.committed_step} "
            f"or any other that all layers are found at (nodes left: {left}; {self._gone()})"
        )

    def _gone(self) -> str:
        generation = self._view.generation
        assert generation is not None
        lost = f"lost since the last start: {', '.join(self._lost)}; " if self._lost else ""
        return f"{lost}generation {generation.number}: {generation.reason}"

    def _end(self, result: Result, reason: str) -> Command:
        self._ended = True
        return WriteOutcome(OutcomeRecord(result=result, reason=reason, step=self._view.committed_step))

    def _wake(self, at_s: float) -> None:
        self._wake_at_s = at_s if self._wake_at_s is None else min(self._wake_at_s, at_s)

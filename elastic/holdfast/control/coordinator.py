"""The coordinator: events in, commands out. It decides when a generation ends and what the next one does.

Pure: time arrives with each event. Level-triggered: every decision is taken from the whole view, so it does not
matter in which order, or how often, facts arrive. A new leader feeds the store's content to a fresh one.

Invariants, kept here and checked by the tests after every event:
- generation numbers grow by one; a generation has at most one start, written when every member has answered;
- a start takes only layers that a live member holds at the step it starts from, in RAM or as workers' state, or
  that a checkpoint of that step has, or makes them at step 0;
- no generation ends while it is forming, except for a loss, a cut, a stall, or a drain whose deadline is near;
- no generation starts before the one that was started last is over for good (`control.fencing`);
- a node is released only when no layer's only copy is on it.
"""

from holdfast.control import contact, departing, joining
from holdfast.control.attendance import Attendance
from holdfast.control.due import Due
from holdfast.control.fencing import is_over, patience_s, voters_after
from holdfast.control.job import Job
from holdfast.control.litter import BATCH_MAX
from holdfast.control.membership import Membership, agents_of, choose_members
from holdfast.control.pricing import measured_at_first
from holdfast.control.recovery import Lineage, LostLayers, extend_lineage, is_history
from holdfast.control.standing import Standings
from holdfast.control.start import decide_start, worth_waiting_s
from holdfast.control.strikes import Strikes
from holdfast.control.tempo import Tempo
from holdfast.control.view import View
from holdfast.control.wording import epitaph, explain_lost
from holdfast.model.commands import (
    Command,
    EvictNode,
    ReleaseDrain,
    WriteGeneration,
    WriteOutcome,
    WriteStart,
)
from holdfast.model.events import AckReceived, Event, PaceTold
from holdfast.model.ids import NodeId
from holdfast.model.records import (
    Action,
    Cause,
    FailureRecord,
    GenerationRecord,
    OutcomeRecord,
    Result,
    StartRecord,
    StopMode,
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
        self._view = View(membership_changed_s=now_s, has_snapshots=job.has_snapshots)
        self._lineage: Lineage = generation.lineage if generation is not None else ()
        self._ended = False
        self._copies_lost_s: float | None = None  # when a copy of every layer was first missed
        self._unheard_s: float | None = None  # when the voters of an older generation were first missed
        self._held_back_s: float | None = None  # when a start was first held back for who may hold newer state
        self._lost: list[str] = []  # members lost since the last start
        self._standings = Standings(job.node_losses, generation.standings if generation is not None else (), now_s)
        self._strikes = Strikes(generation.struck if generation is not None else None, now_s)
        self._attendance, self._tempo = Attendance(self._view), Tempo(job)
        self._evicted: list[EvictNode] = []
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
        """Take note without deciding: for a new leader that reads the store, and for all but the last of several events
        that are there at once, which so become one generation."""
        self._evicted += self._attendance.evictions(event)
        self._view.absorb(event, now_s)
        if isinstance(event, PaceTold):
            self._tempo.told(event.record, self._view, now_s)
        elif isinstance(event, AckReceived):
            self._tempo.heard(event.ack, self._view)

    def handle(self, event: Event, now_s: float) -> tuple[Command, ...]:
        """Take note and decide. The dead are evicted last: what they leave undone comes first."""
        view, attendance = self._view, self._attendance
        self.absorb(event, now_s)
        attendance.miss_members(now_s)
        commands: list[Command] = [*attendance.probes(now_s)]
        self._wake_at_s = attendance.wake_at_s
        for node in view.pardons:
            self._standings.pardon(node)
        while not self._ended and (command := self._next(now_s)) is not None:
            commands.append(command)
            assert len(commands) < _COMMANDS_MAX, f"decisions without end: {commands[-4:]}"
        commands += self._evicted
        self._evicted = []
        return tuple(commands)

    def _next(self, now_s: float) -> Command | None:
        """The first thing that is due, applied to the view at once; None when all is as it should be."""
        view = self._view
        if view.failure is not None:
            failure = view.failure
            return self._end(Result.FAILED, f"step {failure.step}, {failure.slot}: {failure.where}", failure)
        written = view.catalogue.due(self._job.layer_count)
        if written is not None and not is_history(written[0], self._lineage):
            view.catalogue.failed(written[0])  # of steps that were gone back from
        elif written is not None:
            in_use = view.start.checkpoint if view.start is not None else ""
            return view.catalogue.commit(*written, self._lineage, in_use)
        if view.generation is None:
            return self._release() or self._first_generation(now_s)
        if view.is_finished and not view.catalogue.is_pending:
            stopped = view.start is not None and view.start.action is Action.FINISH
            if stopped:
                return self._end(Result.STOPPED, view.stop_reason or "stopped")
            return self._end(Result.COMPLETED, f"all {self._job.steps} steps are committed")
        return (
            self._after_loss(now_s)
            or self._in_time(contact.cut(self._job, view), Cause.COMMUNICATION, now_s)
            or self._after_silence(now_s)
            or (self._start(now_s) if view.start is None else None)
            or self._in_time(contact.broken(self._job, view, now_s), Cause.COMMUNICATION, now_s)
            or self._release()
            or self._planned_change(now_s)
        )

    def _first_generation(self, now_s: float) -> Command | None:
        view, job = self._view, self._job
        settled_s = view.membership_changed_s + job.start_settle_s
        if len(view.nodes) < job.nodes_desired and now_s < settled_s:
            if len(view.nodes) >= job.nodes_min:
                self._wake(settled_s)
            return None
        nodes = {ref.slot.node for ref in view.live} - set(view.draining)
        if len(nodes) < job.nodes_min:
            return None
        if len(nodes) < job.nodes_desired and now_s < settled_s:
            self._wake(settled_s)
            return None
        return self._new_generation(StopMode.BOUNDARY, Cause.START, f"{len(nodes)} nodes are ready", now_s)

    def _after_loss(self, now_s: float) -> Command | None:
        view = self._view
        if (given_up_s := self._attendance.give_up(self._job.absent_s, now_s)) is not None:
            self._wake(given_up_s)
        lost = view.lost
        if not lost:
            return None
        of_themselves = [ref for ref in lost if ref.worker in view.roster.died]
        cause = Cause.WORKER_DIED if len(of_themselves) == len(lost) else Cause.LOSS
        names = ", ".join(epitaph(view, ref) for ref in lost)
        self._lost += [str(ref.slot) for ref in lost]
        nodes = sorted({ref.slot.node for ref in lost})
        self._strikes.struck(len(nodes), now_s)
        for node in nodes:
            self._standings.lost(node, view.committed_step, now_s)
        return self._new_generation(StopMode.ABORT, cause, f"lost {names}", now_s)

    def _in_time(self, due: Due | None, cause: Cause, now_s: float, stop: StopMode = StopMode.ABORT) -> Command | None:
        """A generation of who is left, if it is time."""
        if due is None:
            return None
        if now_s < due.at_s:
            self._wake(due.at_s)
            return None
        return self._new_generation(stop, cause, due.reason, now_s)

    def _after_silence(self, now_s: float) -> Command | None:
        """Forming must not take for ever: who does not answer is evicted, a start that stalls is tried again."""
        view, job = self._view, self._job
        assert view.generation is not None
        if view.is_running:
            return None
        if view.start is not None:
            if now_s < (stalled_s := departing.stalled_s(job, view)):
                self._wake(stalled_s)
                return None
            reason = f"no start within {stalled_s - view.entered_s:g} s"
            return self._new_generation(StopMode.ABORT, Cause.STALLED, reason, now_s)
        if view.generation.stop is StopMode.ABORT:
            patience_s = view.entered_s + job.abort_s + job.start_s
            if now_s < patience_s:
                self._wake(patience_s)
            elif silent := view.silent:
                return self._give_up(silent[0], now_s)
        return None

    def _give_up(self, node: NodeId, now_s: float) -> Command | None:
        """A member that did not stop in time."""
        view = self._view
        record, absent = view.nodes.get(node), node in view.roster.absent
        if record is None:
            return self._new_generation(StopMode.ABORT, Cause.STALLED, f"{node} left without a word", now_s)
        view.fell_silent(node, now_s)
        return self._after_loss(now_s) if absent else EvictNode(record, "did not stop in time")

    def _start(self, now_s: float) -> Command | None:
        view, job = self._view, self._job
        assert view.generation is not None
        if not view.is_stopped:
            return self._in_time(departing.urgent(view), Cause.DRAIN, now_s)
        if not is_over(view) and not self._has_waited_for_voters(now_s):
            return self._take_in_all(now_s)
        decided = decide_start(job, view, self._lineage, self._strikes.outlook(now_s))
        found = decided.version
        pending = view.catalogue.pending
        if pending is not None and is_history(pending, self._lineage) and (found is None or pending > found):
            return None  # it is about to be committed; if it is not, that is told
        if isinstance(decided, LostLayers):
            return self._await_copies(decided, now_s)
        if (worth_s := worth_waiting_s(job, view, decided)) > 0:
            self._held_back_s = now_s if self._held_back_s is None else self._held_back_s
            if now_s < (until_s := self._held_back_s + worth_s):
                self._wake(until_s)
                return self._take_in_all(now_s)
        self._begin(decided, now_s)
        return WriteStart(decided)

    def _await_copies(self, lost: LostLayers, now_s: float) -> Command | None:
        """A node whose lease ended may live and come back with what it holds: it is given a little time, where it is
        known dead, and as long as it may train by itself, where it fell silent. One that is out of reach is waited
        for, and one whose workers died and are not warm again yet."""
        self._copies_lost_s = now_s if self._copies_lost_s is None else self._copies_lost_s
        if (command := self._take_in_all(now_s)) is not None:
            return command
        if self._view.cut_off or self._view.roster.bereft:
            self._copies_lost_s = None
            return None
        given_up_s = self._copies_lost_s + self._job.start_settle_s
        if (silent_s := self._view.unheard.holders_since_s(lost.layers)) is not None:
            given_up_s = max(given_up_s, silent_s + patience_s(self._job.orphan_s))
        if now_s < given_up_s:
            self._wake(given_up_s)
            return None
        return self._end(Result.FAILED, explain_lost(self._job, self._view, lost, self._lost))

    def _has_waited_for_voters(self, now_s: float) -> bool:
        """Long enough, since there was nothing to be seen of any."""
        if any(map(self._view.roster.is_alive, self._view.voters)):
            self._unheard_s = None
            return False
        self._unheard_s = now_s if self._unheard_s is None else self._unheard_s
        given_up_s = self._unheard_s + patience_s(self._job.orphan_s)
        if now_s >= given_up_s:
            return True
        self._wake(given_up_s)
        return False

    def _take_in_all(self, now_s: float) -> Command | None:
        """The job needs what others may hold, however often they were lost."""
        if new := joining.names(self._view, self._choose_members(now_s, needs_all=True).members):
            return self._new_generation(StopMode.ABORT, Cause.RESUME, f"{new} came", now_s, needs_all=True)
        return None

    def _release(self) -> Command | None:
        """Let go of a draining node once what it held lives elsewhere."""
        record = departing.released(self._job, self._view)
        if record is None:
            return None
        self._view.release(record)
        return ReleaseDrain(record)

    def _planned_change(self, now_s: float) -> Command | None:
        """Drains, the end, joins: at a step boundary, and only from a generation that runs."""
        view = self._view
        assert view.generation is not None
        if not view.is_running or not view.nodes:
            return None
        finishing = view.start is not None and view.start.action is Action.FINISH
        # A stop that found too few slots to gather the weights on waits for more.
        waiting = view.is_holding and view.generation.cause is Cause.STOP
        if view.stop_reason is not None and not finishing and not waiting:
            return self._new_generation(StopMode.BOUNDARY, Cause.STOP, view.stop_reason, now_s)
        leaving = [n for n in view.draining if n in view.member_nodes and n not in view.generation.leavers]
        if leaving:
            self._strikes.struck(len(leaving), now_s)
            reasons = ", ".join(f"{node} ({view.drains[node].record.reason})" for node in leaving)
            return self._new_generation(StopMode.BOUNDARY, Cause.DRAIN, f"draining {reasons}", now_s)
        if departing.is_short(self._job, view):
            reason = f"nodes.min: {self._job.nodes_min} nodes are needed, and some that stood by are gone"
            return self._new_generation(StopMode.BOUNDARY, Cause.LOSS, reason, now_s)
        return self._joins(now_s) or self._in_time(
            self._tempo.due(view, self._strikes.outlook(now_s), now_s), Cause.BALANCE, now_s, StopMode.BOUNDARY
        )

    def _joins(self, now_s: float) -> Command | None:
        view = self._view
        coming = joining.newcomers(self._job, view)
        if not coming:
            return None
        if view.is_holding:
            return self._take_in(Cause.RESUME, now_s, needs_all=True)
        barred = {
            node
            for node in coming
            if self._standings.is_barred(node, view.committed_step, now_s, is_exposed=view.entrusted.is_exposed)
        }
        if (until_s := joining.waits_until_s(self._standings, barred, now_s)) is not None:
            self._wake(until_s)
        if coming <= barred:
            return None
        if now_s < (due_s := joining.due_s(self._job, view)):
            self._wake(due_s)
            return None
        # A step between two joins: a node that flaps can slow training down, never stop it.
        return self._take_in(Cause.JOIN, now_s) if view.progressed else None

    def _take_in(self, cause: Cause, now_s: float, *, needs_all: bool = False) -> Command | None:
        """Newcomers, unless somebody would have to leave for them, or it is not worth it."""
        chosen = self._choose_members(now_s, needs_all=needs_all)
        new = joining.names(self._view, chosen.members, without=self._view.draining)
        members = self._view.roster.members
        kept = members.intersection(ref.worker for ref in chosen.members)
        if not new or len(kept) < len(members.intersection(ref.worker for ref in self._view.live)):
            return None
        if cause is Cause.JOIN and not self._tempo.takes(chosen.members, self._view, self._strikes.outlook(now_s)):
            return None
        return self._new_generation(StopMode.BOUNDARY, cause, f"{new} came", now_s, needs_all=needs_all)

    def _choose_members(self, now_s: float, *, needs_all: bool) -> Membership:
        return choose_members(self._job, self._view, self._standings, now_s, needs_all=needs_all)

    def _new_generation(
        self, stop: StopMode, cause: Cause, reason: str, now_s: float, *, needs_all: bool = False
    ) -> Command:
        view = self._view
        before = view.generation
        chosen = self._choose_members(now_s, needs_all=needs_all)
        cut_off = view.member_nodes.intersection(chosen.unreachable)
        trouble = self._count_trouble(cause) if not cut_off else 0
        limit = self._job.worker_deaths_per_step if cause is Cause.WORKER_DIED else _BREAKS_PER_STEP
        if trouble >= limit:
            return self._end(Result.FAILED, f"{reason}; {trouble} times in a row at step {view.committed_step}")
        for node in sorted(cut_off):
            self._standings.lost(node, view.committed_step, now_s)
        record = GenerationRecord(
            number=1 if before is None else before.number + 1,
            members=chosen.members,
            leavers=tuple(n for n in view.draining if any(ref.slot.node == n for ref in chosen.members)),
            stop=stop,
            cause=cause,
            reason=reason,
            lineage=self._lineage,
            trouble_step=view.committed_step,
            trouble=trouble,
            voters=voters_after(view),
            agents=agents_of(view, chosen.members),
            standings=self._standings.entries(view.committed_step, now_s),
            unreachable=chosen.unreachable,
            unheard=view.unheard.nodes,
            measured=self._tempo.measured(view) if before is not None else measured_at_first(self._job),
            struck=self._strikes.outlook(now_s).written,
        )
        # Those beyond what one transaction takes away stand until the next generation.
        pardons, honoured = tuple(sorted(view.pardons)[:BATCH_MAX]), departing.honoured(view)
        view.pardons.difference_update(pardons)
        if any(map(view.roster.is_alive, record.voters)):
            self._unheard_s = None
        view.enter(record, now_s)
        self._tempo.entered()
        return WriteGeneration(record, pardons, honoured)

    def _count_trouble(self, cause: Cause) -> int:
        """With the present one, if it had a start. While somebody waits for a storage that is away, it is that."""
        known, counts = contact.trouble(self._view), self._view.start is not None and not self._view.waits.nodes
        return known + 1 if cause in _CAUSES_OF_TROUBLE and counts else known

    def _begin(self, start: StartRecord, now_s: float) -> None:
        self._view.begin(start, now_s)
        self._copies_lost_s, self._unheard_s, self._held_back_s, self._lost = None, None, None, []
        self._lineage = extend_lineage(self._lineage, start.generation, start.version.step)

    def _end(self, result: Result, reason: str, failure: FailureRecord | None = None) -> Command:
        self._ended = True
        step = self._view.committed_step
        return WriteOutcome(OutcomeRecord(result=result, reason=reason, step=step, failure=failure))

    def _wake(self, at_s: float) -> None:
        self._wake_at_s = at_s if self._wake_at_s is None else min(self._wake_at_s, at_s)

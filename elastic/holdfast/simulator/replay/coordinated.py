"""Replays a trace with the real coordinator, on a virtual clock: what it decides, when it decides it, and from where
layers come back.

Nodes, a slot each, do at once and rightly what a generation asks of them, and take for it what was measured
(`MeasuredCosts`); a step takes what the planner's timeline says of the coordinator's layout. So beside the policy
`holdfast`, which weighs layouts of a table, this shows what the coordinator adds: joins that settle, newcomers that do
not pay, notices, losses of losses, recovery from RAM or a checkpoint.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import inf

from holdfast.control.coordinator import Coordinator
from holdfast.model.commands import (
    Command,
    EvictNode,
    ProbeNode,
    ReleaseDrain,
    WriteGeneration,
    WriteOutcome,
    WriteStart,
)
from holdfast.model.events import (
    AckReceived,
    CheckpointsChanged,
    DrainChanged,
    Event,
    NodeChanged,
    NodeRefused,
    PaceTold,
    ProbeAnswered,
    ProgressMade,
    TimePassed,
)
from holdfast.model.ids import NodeId
from holdfast.model.plan import Plan
from holdfast.model.records import (
    AckPhase,
    Action,
    Cause,
    CheckpointRef,
    CheckpointsRecord,
    Commit,
    DrainRecord,
    GenerationRecord,
    ProgressRecord,
    StartRecord,
    StopMode,
    Version,
)
from holdfast.planner.timeline import estimate
from holdfast.simulator.replay.accounting import UNFINISHED, Account
from holdfast.simulator.replay.baselines import JOIN, LOSS, START
from holdfast.simulator.replay.costs import MeasuredCosts
from holdfast.simulator.replay.crew import Crew
from holdfast.simulator.replay.replaying import WAITING, Outcome
from holdfast.simulator.replay.runtime import Runtime
from holdfast.simulator.replay.trace import Trace

NAME = "coordinator"
DRAIN, BALANCE, FAILED = "drain", "balance", "failed"
_CAUSES = {Cause.START: START, Cause.DRAIN: DRAIN, Cause.JOIN: JOIN, Cause.RESUME: JOIN, Cause.BALANCE: BALANCE}
# Of what a loss takes (`MeasuredCosts.loss_s`): until the survivors have stopped.
_STOP_S = 0.05
# How often the coordinator is told of commits beyond a generation's first.
_TOLD_S = 10.0


@dataclass(slots=True)
class _Training:
    """Steps of one generation, one after the other from `from_s` on, as long as nothing is lost."""

    start: StartRecord
    plan: Plan
    step_s: float
    from_s: float
    commits: int = 0
    until_s: float = inf

    def at_s(self, commits: int) -> float:
        return self.from_s + commits * self.step_s

    def by(self, now_s: float) -> int:
        """Commits that are due."""
        seconds = min(now_s, self.until_s) - self.from_s
        return max(self.commits, int(seconds / self.step_s + 1e-6))


def replay(trace: Trace, runtime: Runtime, costs: MeasuredCosts) -> Outcome:
    """The whole trace."""
    return _Run(trace, runtime, costs).finish()


@dataclass(order=True, slots=True)
class _Due:
    at_s: float
    order: int
    happen: Callable[[], None] = field(compare=False)


class _Run:
    def __init__(self, trace: Trace, runtime: Runtime, costs: MeasuredCosts) -> None:
        self._trace, self._runtime, self._costs = trace, runtime, costs
        self._job = runtime.job_on(trace)
        self._account = Account(NAME, trace, runtime.layouts)
        self._coordinator = Coordinator(self._job, now_s=0.0)
        self._crew = Crew(self._job, costs.link_bytes_per_s)
        self._now_s = 0.0
        self._agenda: list[_Due] = []
        self._order = count()
        self._noted_wake_s = -1.0
        self._joined_s: dict[NodeId, float] = {}  # of those that the trace has now
        self._generation: GenerationRecord | None = None
        self._broken = 0  # the newest generation that lost somebody while it formed
        self._training: _Training | None = None
        self._stalled: str | None = START
        self._step = 0  # committed, and not gone back from
        self._leave_by_s: dict[NodeId, float] = {}  # of those with notice
        self._checkpoints: tuple[CheckpointRef, ...] = ()
        self._step_s: dict[Plan, float] = {}

    def finish(self) -> Outcome:
        for change in self._trace.changes:
            self._announce(change.at_s, change.left, change.notice_s)
            self._at(change.at_s, partial(self._change, change.joined, change.left))
        while self._agenda and self._agenda[0].at_s < self._trace.duration_s:
            due = heappop(self._agenda)
            self._now_s = due.at_s
            self._train()
            due.happen()
        self._now_s = self._trace.duration_s
        self._train()
        self._account.to(self._now_s, 0.0, self._stalled or UNFINISHED)
        return self._account.finish(self._step, self._runtime.layouts.global_batch)

    def _at(self, at_s: float, happen: Callable[[], None]) -> None:
        heappush(self._agenda, _Due(at_s, next(self._order), happen))

    # What the trace does.

    def _announce(self, at_s: float, left: Sequence[NodeId], notice_s: float) -> None:
        if left and notice_s > 0:
            self._at(max(0.0, at_s - notice_s), partial(self._warn, left, min(notice_s, at_s)))

    def _warn(self, nodes: Sequence[NodeId], grace_s: float) -> None:
        """One that is not warm yet says it once it is."""
        self._leave_by_s |= dict.fromkeys(nodes, self._now_s + grace_s)
        self._tell(*(self._drained(node) for node in nodes if node in self._crew.nodes))

    def _drained(self, node: NodeId) -> DrainChanged:
        left_s = max(0.0, self._leave_by_s[node] - self._now_s)
        return DrainChanged(node, DrainRecord(node=node, grace_s=left_s, reason="taken back"))

    def _change(self, joined: Sequence[NodeId], left: Sequence[NodeId]) -> None:
        self._leave(left)
        for node in joined:
            self._joined_s[node] = self._now_s
            self._at(self._now_s + self._costs.start_up_s, partial(self._come, node, self._now_s))

    def _come(self, node: NodeId, joined_s: float) -> None:
        """It is warm, if it is still there."""
        if self._joined_s.get(node) != joined_s:
            return
        events: list[Event] = [DrainChanged(node, None), NodeChanged(node, self._crew.add(node))]
        self._tell(*events, *([self._drained(node)] if node in self._leave_by_s else []))

    def _leave(self, nodes: Sequence[NodeId]) -> None:
        """Without a word, but for those that were released before."""
        refused = []
        for node in nodes:
            self._joined_s.pop(node, None)
            self._leave_by_s.pop(node, None)
            record = self._crew.lose(node)
            if record is None:
                continue
            refused.append(NodeRefused(node, record.incarnation))
            if self._training is not None and node in self._training.plan.nodes:
                self._training.until_s = min(self._training.until_s, self._now_s)
                self._stall(LOSS)
            elif self._generation is not None and node in {ref.slot.node for ref in self._generation.members}:
                self._broken = self._generation.number
        self._at(self._now_s + self._costs.detect_s, partial(self._tell, *refused))

    # What the coordinator is told, and what it wants.

    def _tell(self, *events: Event) -> None:
        """Those that are there at once are taken note of together."""
        for event in events[:-1]:
            self._coordinator.absorb(event, self._now_s)
        for event in events[-1:]:
            for command in self._coordinator.handle(event, self._now_s):
                self._carry_out(command)
        wake_s = self._coordinator.wake_at_s
        if wake_s is not None and wake_s > self._now_s and wake_s != self._noted_wake_s:
            self._noted_wake_s = wake_s
            self._at(wake_s, partial(self._wake, wake_s))

    def _wake(self, wake_s: float) -> None:
        if self._coordinator.wake_at_s == wake_s:
            self._tell(TimePassed())

    def _carry_out(self, command: Command) -> None:
        """What nodes answer comes after all that was decided."""
        match command:
            case WriteGeneration(record, _, drains):
                self._stop(record)
                if drains:  # honoured, and taken away
                    self._at(self._now_s, partial(self._tell, *(DrainChanged(drain.node, None) for drain in drains)))
            case WriteStart(record):
                self._form(record)
            case ReleaseDrain(record):
                self._crew.lose(record.node)
                self._at(self._now_s, partial(self._tell, DrainChanged(record.node, record)))
                self._at(self._now_s, partial(self._tell, NodeChanged(record.node, None)))
            case EvictNode(record):
                self._at(self._now_s, partial(self._tell, NodeChanged(record.node, None)))
            case ProbeNode(record):
                workers = tuple(ref.worker for ref in record.workers)
                alive = workers if record.node in self._crew.nodes else None
                answer = ProbeAnswered(record.node, record.incarnation, alive, workers)
                self._at(self._now_s, partial(self._tell, answer))
            case WriteOutcome(_):
                self._stall(FAILED)
            case _:
                raise AssertionError(f"nothing was uploaded, and yet: {command}")

    # What nodes do in a generation.

    def _stop(self, record: GenerationRecord) -> None:
        """After the step in flight, or at once."""
        self._generation, training = record, self._training
        stopped_s = self._now_s + _STOP_S
        if training is not None and record.stop is StopMode.BOUNDARY and training.until_s == inf:
            stopped_s = training.until_s = training.at_s(training.commits + 1)
        elif training is not None:
            training.until_s = min(training.until_s, self._now_s)
        self._at(stopped_s, partial(self._stopped, record))

    def _stopped(self, record: GenerationRecord) -> None:
        if self._generation is not record:
            return
        self._training = None
        self._stall(_CAUSES.get(record.cause, LOSS))
        for ack in self._crew.acks(record, AckPhase.STOPPED):
            self._tell(AckReceived(ack))

    def _form(self, start: StartRecord) -> None:
        generation = self._generation
        assert generation is not None
        moves = self._crew.moves(start)
        self._account.outcome.moved_bytes += moves.moved_bytes
        self._account.outcome.remote_bytes += moves.remote_bytes
        if start.action is Action.HOLD:
            self._stall(WAITING)
        formed_s = self._forming_s(generation) + moves.seconds + self._costs.group_s * len(generation.members)
        self._at(self._now_s + formed_s, partial(self._run, generation, start))

    def _forming_s(self, generation: GenerationRecord) -> float:
        if generation.stop is StopMode.ABORT:
            return max(0.0, self._costs.loss_s - self._costs.detect_s - _STOP_S)
        return self._costs.drain_s if generation.leavers else self._costs.join_s

    def _run(self, generation: GenerationRecord, start: StartRecord) -> None:
        if self._generation is not generation or self._broken == generation.number:
            return
        self._crew.settle(start)
        self._step = start.version.step
        if start.plan is not None:
            training = _Training(start, start.plan, self._seconds(start.plan), self._now_s)
            self._training = training
            self._account.began(self._now_s, start.plan.describe(), len(start.plan.slots), self._stalled or LOSS)
            self._at(training.at_s(1), partial(self._follow, training))
        for ack in self._crew.acks(generation, AckPhase.RUNNING):
            self._tell(AckReceived(ack))

    def _seconds(self, plan: Plan) -> float:
        if plan not in self._step_s:
            job = self._job
            self._step_s[plan] = estimate(plan, job.profile, job.block_size, canonical=job.is_canonical).seconds
        return self._step_s[plan]

    def _follow(self, training: _Training) -> None:
        """Commits were told of before this; how fast they came is told with the first."""
        if training is not self._training:
            return
        if training.commits == 1:
            self._tell(*(PaceTold(record) for record in self._crew.paces(training.start)))
        steps = max(1, round(_TOLD_S / training.step_s))
        self._at(training.at_s(training.commits + steps), partial(self._follow, training))

    def _train(self) -> None:
        """All steps that were committed by now."""
        training = self._training
        if training is None or (due := training.by(self._now_s)) == training.commits:
            return
        first, begun = training.start.version.step, training.commits
        training.commits = due
        self._account.to(training.at_s(begun), 0.0, self._stalled or LOSS)
        self._stalled = None
        rate = self._runtime.layouts.global_batch / training.step_s
        self._account.steps(first + begun, first + due, training.at_s(begun), training.at_s(due), rate)
        self._step = first + due
        version = Version(self._step, training.start.generation)
        self._crew.committed(version, training.plan, due)
        commit = Commit(step=version.step, loss=1.0, grad_norm=None, time_s=self._now_s)
        self._tell(ProgressMade(ProgressRecord(generation=version.generation, commits=(commit,))))
        self._save(Version(version.step - version.step % self._costs.checkpoint_steps, version.generation), first)

    def _save(self, version: Version, first: int) -> None:
        """A checkpoint of this step, if this generation committed it and there is none."""
        known = self._checkpoints[-1].version if self._checkpoints else None
        if version.step > first and version != known:
            ref = CheckpointRef(version=version, folder=f"step-{version.step}-{version.generation}")
            self._checkpoints = (*self._checkpoints[-1:], ref)
            self._tell(CheckpointsChanged(CheckpointsRecord(committed=self._checkpoints)))

    def _stall(self, cause: str) -> None:
        """Nothing is committed from here on; what went before, since the last commit, is lost to this too."""
        if self._stalled is not None:
            self._account.to(self._now_s, 0.0, self._stalled)
        self._stalled = cause

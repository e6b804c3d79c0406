"""One generation in one worker: form groups, get the layers, then train, hold or finish.

The order of collectives is the same on every rank: transfer group, world, pipeline, segments; then transfers; then
a first vote, which shows that everyone is ready; then steps.
"""

import time
from collections.abc import Callable

from holdfast.errors import CommunicationError, JobFailedError, UserCodeError
from holdfast.model.heartbeat import Phase
from holdfast.model.messages import Committed, Finished, FromWorker, Paced, Running, Start
from holdfast.model.plan import Plan
from holdfast.model.records import Action, SlotStart, Version
from holdfast.worker.comm import WORLD, Comm, GroupSpec
from holdfast.worker.commit import make_commit
from holdfast.worker.layers import blank_layer, initial_layer
from holdfast.worker.pace import Pace
from holdfast.worker.reduce import segment_group
from holdfast.worker.restoring import Restores, load_restored
from holdfast.worker.snapshots import Snapshots
from holdfast.worker.state import Holdings, Setting
from holdfast.worker.step import StepRunner
from holdfast.worker.transfer import TRANSFER, Moved, move_layers, transfer_ranks


def pipeline_group(pipeline: int) -> str:
    return f"pipeline-{pipeline}"


class GenerationRun:
    """Runs on the training thread. `stop_wanted` is set by the reader's thread."""

    def __init__(
        self,
        setting: Setting,
        holdings: Holdings,
        message: Start,
        comm: Comm,
        send: Callable[[FromWorker], None],
        stop_wanted: Callable[[], bool],
        snapshots: Snapshots,
        restores: Restores,
    ) -> None:
        self._setting, self._holdings, self._comm, self._send = setting, holdings, comm, send
        self._snapshots, self._restores = snapshots, restores
        self._stop_wanted = stop_wanted
        self._start = message.start
        self._number = message.start.generation
        plan = message.start.plan
        self._plan = plan if plan is not None and setting.slot in plan.slots else None
        self._rank = plan.rank_of(setting.slot) if plan is not None and self._plan is not None else -1

    def run(self) -> None:
        """Returns at a stop, at the end of the job, or when this worker has no part (any more).

        Raises:
            CommunicationError: a peer was lost, or an abort.
            UserCodeError: the user's code raised.
        """
        begun = time.perf_counter()
        program = self._setting.program
        self._snapshots.settle(self._beat, with_copies=False)
        self._snapshots.enter(self._start)
        self._holdings.settle(program, self._start.version, self._start.roll_forward)
        specs = self._groups()
        if specs:
            self._comm.form(specs)
        formed = time.perf_counter()
        moved = self._move()
        restored = self._restore()
        initialised = self._initialise()
        runner = self._make_runner()
        moved_at = time.perf_counter()
        agreed = runner.agree(self._stop_wanted(), self._snapshots.standing()) if runner else None
        start = SlotStart(
            slot=self._setting.slot,
            form_s=formed - begun,
            move_s=moved_at - formed,
            received=tuple(sorted(moved.received.items())),
            initialised_layers=initialised,
            restored=tuple(sorted(restored.items())),
        )
        self._send(Running(generation=self._number, start=start))
        if runner is None or agreed is None:
            if self._start.urgent:
                self._snapshots.write_urgently(
                    self._start.version, self._holdings.layers, self._beat, self._stop_wanted
                )
            return
        stopping = agreed.stop
        if self._start.action is Action.TRAIN and not stopping:
            if self._snapshots.is_due(self._start.version.step, agreed.tally):
                self._snapshots.begin(self._start.version, runner.held, None, agreed.tally)
            stopping = self._train(runner)
        if not stopping:
            self._finish()

    def _train(self, runner: StepRunner) -> bool:
        """Steps until the end or a stop; True for a stop, on all ranks alike."""
        holdings, program = self._holdings, self._setting.program
        version = self._start.version
        holdings.pace = Pace(holdings.pace_told)
        while version.step < self._setting.spec.steps:
            holdings.in_flight = True
            runner.compute(version.step)
            version = Version(version.step + 1, self._number)
            self._drop_leftovers()
            self._snapshots.settle(self._beat)
            holdings.pending = version
            self._require_permit()
            voted = runner.vote(self._stop_wanted(), self._snapshots.standing())
            self._require_permit()
            commit = make_commit(version.step, voted.loss, voted.grad_norm)
            try:
                holdings.commit(program, commit, version)
            except Exception as error:  # the user's optimizer or schedule
                raise UserCodeError(f"the optimizer step failed: {error!r}") from error
            self._send(Committed(generation=self._number, rank=self._rank, commit=commit))
            self._tell_pace(runner.layer_s())
            if voted.stop:
                return True
            is_last = version.step == self._setting.spec.steps  # nobody will go on from there
            # Also then the vote says what is whole by now: a checkpoint of the end may overwrite the rest.
            if self._snapshots.is_due(version.step, voted.tally) and not is_last:
                self._snapshots.begin(version, runner.held, commit, voted.tally)
        return False

    def _tell_pace(self, layer_s: dict[int, float]) -> None:
        pace, now_s = self._holdings.pace, time.monotonic()
        pace.add(layer_s, now_s)
        if news := pace.news(now_s):
            self._send(Paced(generation=self._number, layer_s=tuple(news.items())))

    def _require_permit(self) -> None:
        """Who stood still or was cut off for so long that it may have been given up does not vote, and applies no
        vote. Raises: CommunicationError."""
        if not self._setting.pulse.may_vote(self._number):
            raise CommunicationError(f"generation {self._number} may have been given up: the agent has no contact")

    def _drop_leftovers(self) -> None:
        """Once a step is computed every rank has its layers for sure: free what this one held for others.

        Before it votes, so that `pending` speaks of all that is held.
        """
        assert self._plan is not None
        mine = self._plan.stages[self._rank].layers
        for layer in [layer for layer in self._holdings.layers if layer not in mine]:
            del self._holdings.layers[layer]

    def _groups(self) -> list[GroupSpec]:
        movers = transfer_ranks(self._start.transfers)
        specs = []
        if self._setting.slot in movers:
            specs.append(GroupSpec(name=TRANSFER, rank=movers.index(self._setting.slot), size=len(movers)))
        if self._plan is not None:
            specs += _run_groups(self._plan, self._rank, segments=self._setting.spec.reduction == "allreduce")
        return specs

    def _move(self) -> Moved:
        setting = self._setting
        if not any(setting.slot in (t.source, t.target) for t in self._start.transfers):
            return Moved({}, {})
        moved = move_layers(
            self._comm,
            setting.slot,
            self._start.transfers,
            self._holdings.layers,
            lambda layer: blank_layer(setting.program, layer, setting.device),
            setting.device,
        )
        self._holdings.adopt(moved.layers)
        return moved

    def _restore(self) -> dict[str, int]:
        """Take over the layers that the agent fetches; bytes by where they came from."""
        setting, received = self._setting, dict[str, int]()
        wanted = {r.layer for r in self._start.restores if r.target == setting.slot}
        while wanted:
            message = self._restores.next_of(self._number, self._beat)
            blank = blank_layer(setting.program, message.layer, setting.device)
            size = load_restored(message.path, blank, self._start.version, setting.device)
            self._comm.enter(Phase.COMPUTE)
            self._holdings.adopt({message.layer: blank})
            wanted.discard(message.layer)
            received[message.source] = received.get(message.source, 0) + size
        return received

    def _beat(self) -> None:
        """Raises: CommunicationError: the generation is over."""
        self._comm.enter(Phase.COMPUTE)

    def _initialise(self) -> int:
        if self._plan is None or not self._start.initialise:
            return 0
        setting = self._setting
        lacking = [n for n in self._plan.stages[self._rank].layers if n not in self._holdings.layers]
        for layer in lacking:
            self._comm.enter(Phase.COMPUTE)
            self._holdings.adopt({layer: initial_layer(setting.program, layer, setting.device)})
        return len(lacking)

    def _make_runner(self) -> StepRunner | None:
        if self._plan is None:
            return None
        self._comm.register_default(pipeline_group(self._plan.locate(self._rank)[0]))
        return StepRunner(self._setting, self._comm, self._plan, self._rank, self._holdings.layers)

    def _finish(self) -> None:
        """Write this rank's share of the final weights: the layers of which it is the first holder."""
        assert self._plan is not None
        mine = [n for n in self._plan.stages[self._rank].layers if self._plan.holders(n)[0] == self._rank]
        layers = [self._holdings.layers[layer] for layer in mine]
        assert self._holdings.version is not None
        try:
            self._setting.final.write(layers, self._beat)
        except JobFailedError:
            self._keep_all()  # for when that is mended
            raise
        self._keep_all()
        self._send(Finished(generation=self._number, step=self._holdings.version.step))

    def _keep_all(self) -> None:
        """A checkpoint of what the job ends with, unless there is one."""
        assert self._plan is not None and self._holdings.version is not None
        if not (self._start.checkpoint and self._start.version == self._holdings.version):
            held = {layer: self._holdings.layers[layer] for layer in self._plan.stages[self._rank].layers}
            self._snapshots.write_urgently(self._holdings.version, held, self._beat, self._stop_wanted)


def _run_groups(plan: Plan, rank: int, *, segments: bool) -> list[GroupSpec]:
    pipeline, stage = plan.locate(rank)
    specs = [
        GroupSpec(name=WORLD, rank=rank, size=len(plan.slots)),
        GroupSpec(name=pipeline_group(pipeline), rank=stage, size=plan.pipelines[pipeline].depth),
    ]
    if segments:
        groups = {segment_group(s): s.ranks for s in plan.segments if rank in s.ranks and len(s.ranks) > 1}
        specs += [GroupSpec(name=n, rank=r.index(rank), size=len(r)) for n, r in groups.items()]
    return specs

"""A fake worker process: the protocol of holdfast.worker.main and .generation, layer states that are hashes.

Two threads, as there: the reader shows stops at once, the training thread takes messages when it is free. Each
public `can_*` says whether its action is possible now; the scheduler picks.
"""

from collections import deque
from enum import StrEnum
from typing import Protocol

from harness.clockwork.held import Held, show
from harness.clockwork.weights import State, initial, loss_of
from harness.clockwork.wires import Contribution, ViolationError, Wires
from holdfast.model.ids import SlotId, WorkerId
from holdfast.model.messages import (
    Broken,
    Committed,
    Exit,
    Failed,
    Finished,
    FromWorker,
    Parked,
    Ready,
    Running,
    Start,
    Stop,
    ToWorker,
)
from holdfast.model.plan import Plan
from holdfast.model.records import Action, Commit, SlotInventory, SlotStart, Version, WorkerRef

_FIRST_VOTE = -1


class Phase(StrEnum):
    WARMING = "warming"
    IDLE = "idle"
    FORMING = "forming"
    MOVING = "moving"
    AGREEING = "agreeing"
    COMPUTING = "computing"
    REDUCING = "reducing"
    VOTING = "voting"
    FAILED = "failed"
    DEAD = "dead"


_WAITING_FOR_PEERS = (Phase.MOVING, Phase.AGREEING, Phase.REDUCING, Phase.VOTING)


class Surroundings(Protocol):
    """What a worker needs of the world: everyone else's side of the wires, the checkers, a few dials."""

    now_s: float
    forming_breaks: bool
    rough_closings: int

    @property
    def steps(self) -> int: ...

    def wires(self, message: Start) -> Wires: ...

    def is_served(self, message: Start, slot: SlotId) -> bool: ...

    def voted(self, wires: Wires) -> None: ...

    def committed(self, worker: "Worker", commit: Commit) -> None: ...

    def finished(self, layer: int, state: State) -> None: ...

    def user_code_fails(self, slot: SlotId, step: int) -> bool: ...

    def dies(self, slot: SlotId, phase: Phase, step: int) -> bool: ...


class Worker:
    """One process. `to_worker` and `to_agent` are its socket; None in `to_agent` is its end."""

    def __init__(self, world: Surroundings, ref: WorkerRef) -> None:
        self._world, self.ref = world, ref
        self.phase = Phase.WARMING
        self.held = Held()
        self.hung = False
        self.frozen = False
        self.to_worker: deque[ToWorker] = deque()
        self.to_agent: deque[FromWorker | None] = deque()
        self._inbox: deque[ToWorker] = deque()
        self._newest_stop = 0
        self._message: Start | None = None
        self._wires: Wires | None = None
        self._aborted = False
        self._step = 0

    @property
    def slot(self) -> SlotId:
        return self.ref.slot

    @property
    def worker(self) -> WorkerId:
        return self.ref.worker

    @property
    def alive(self) -> bool:
        return self.phase is not Phase.DEAD

    @property
    def _able(self) -> bool:
        return self.phase is not Phase.DEAD and not self.hung and not self.frozen

    @property
    def generation(self) -> int:
        return self._message.start.generation if self._message is not None and self._wires is not None else 0

    def die(self) -> None:
        if self.alive:
            self._close(lost=True)
            self.phase = Phase.DEAD
            self.to_worker.clear()
            self.to_agent.append(None)

    # The reader's thread.

    def can_read(self) -> bool:
        return bool(self.to_worker) and self._able

    def read(self) -> str:
        message = self.to_worker.popleft()
        if isinstance(message, Exit):
            self.die()
            return "exits"
        self._inbox.append(message)
        if isinstance(message, Stop):
            self._newest_stop = max(self._newest_stop, message.generation)
            if message.abort and self._wires is not None:
                self._aborted = True
        return describe(message)

    # The training thread.

    def can_train(self) -> bool:
        if not self._able or self._aborted:
            return False
        match self.phase:
            case Phase.WARMING | Phase.COMPUTING:
                return True
            case Phase.IDLE:
                return bool(self._inbox)
            case Phase.FORMING:
                wires = self._its_wires
                return self._companions(wires) <= wires.arrived and self._is_served()
            case Phase.MOVING:
                wires = self._its_wires
                return all((t.layer, t.target) in wires.sent for t in wires.start.transfers if t.target == self.slot)
            case Phase.AGREEING:
                return self._all_voted(_FIRST_VOTE)
            case Phase.REDUCING:
                return len(self._its_wires.given.get(self._step, ())) == len(self._its_wires.ranks)
            case Phase.VOTING:
                return self._all_voted(self._step)
            case _:
                return False

    def train(self) -> str:
        """One action of the training thread."""
        before = self.phase
        if self._world.dies(self.slot, before, self._step):
            self.die()
            return f"dies of itself while {before}"
        match before:
            case Phase.WARMING:
                self._warm()
            case Phase.IDLE:
                return self._take()
            case Phase.FORMING:
                self._form()
            case Phase.MOVING:
                self._receive()
            case Phase.AGREEING:
                self._agreed()
            case Phase.COMPUTING:
                self._compute()
            case Phase.REDUCING:
                self._reduce()
            case Phase.VOTING:
                self._tally()
        return f"{before} -> {self.phase} (generation {self.generation}, step {self._step})"

    def can_break(self) -> bool:
        if self._wires is None or not self._able:
            return False
        if self._aborted:
            return True
        if not self._wires.lost and not self._world.rough_closings:
            return False
        if self.phase is Phase.FORMING:
            return self._world.forming_breaks and bool(self._companions(self._wires) & self._wires.lost)
        return self.phase in _WAITING_FOR_PEERS and bool(self._peers(self._wires) & self._gone(self._wires))

    def break_off(self) -> str:
        """Communication raised."""
        number, phase, wires = self.generation, self.phase, self._its_wires
        if not self._aborted and not self._companions(wires) & wires.lost:
            self._world.rough_closings -= 1
        self._close(lost=True)
        self.phase = Phase.IDLE
        self.to_agent.append(Broken(generation=number, detail="a peer was lost"))
        return f"breaks off while {phase} (generation {number}, step {self._step})"

    @property
    def _its_wires(self) -> Wires:
        assert self._wires is not None
        return self._wires

    def _is_served(self) -> bool:
        assert self._message is not None
        return self._world.is_served(self._message, self.slot)

    def _companions(self, wires: Wires) -> frozenset[SlotId]:
        """Members of all groups this worker forms."""
        movers = wires.movers if self.slot in wires.movers else frozenset[SlotId]()
        return movers | (wires.ranks if self.slot in wires.ranks else frozenset())

    def _peers(self, wires: Wires) -> frozenset[SlotId]:
        """Those it waits for now."""
        return (wires.movers if self.phase is Phase.MOVING else wires.ranks) - {self.slot}

    def _gone(self, wires: Wires) -> set[SlotId]:
        return wires.lost | wires.closed if self._world.rough_closings else wires.lost

    def _all_voted(self, step: int) -> bool:
        return len(self._its_wires.votes.get(step, ())) == len(self._its_wires.ranks)

    def _warm(self) -> None:
        self.phase = Phase.IDLE
        ref = self.ref
        self.to_agent.append(Ready(slot=ref.slot, worker=ref.worker, pid=ref.pid, address=ref.address))

    def _take(self) -> str:
        message = self._inbox.popleft()
        if isinstance(message, Stop):
            self.to_agent.append(Parked(generation=message.generation, inventory=self.inventory()))
            return f"parks for generation {message.generation} at {show(self.held.version)}"
        assert isinstance(message, Start)
        number = message.start.generation
        if self._newest_stop > number:
            return f"skips generation {number}, which is over"
        self._message, self._wires = message, self._world.wires(message)
        self._aborted = False
        rolled = self.held.settle(message.start.version, message.start.roll_forward)
        if rolled:
            assert message.start.roll_forward is not None
            self._world.committed(self, message.start.roll_forward)
        if self._companions(self._wires):
            self._wires.arrived.add(self.slot)
            self.phase = Phase.FORMING
        else:
            self._say_running(0)
            self._close(lost=False)
        return f"enters generation {number} at {show(message.start.version)}{', rolled forward' if rolled else ''}"

    def _form(self) -> None:
        wires = self._its_wires
        for transfer in wires.start.transfers:
            if transfer.source == self.slot:
                if transfer.layer not in self.held.layers:
                    raise ViolationError(f"{self.slot} is to send layer {transfer.layer}, which it does not hold")
                wires.sent[transfer.layer, transfer.target] = self.held.layers[transfer.layer]
        self.phase = Phase.MOVING

    def _receive(self) -> None:
        wires = self._its_wires
        for t in wires.start.transfers:
            if t.target == self.slot:
                self.held.layers[t.layer] = wires.sent[t.layer, t.target]
        if self.slot not in wires.ranks:
            self._say_running(0)
            self._close(lost=False)
            self.phase = Phase.IDLE
            return
        lacking = [layer for layer in self._plan.layers_of(self.slot) if layer not in self.held.layers]
        if lacking and not wires.start.initialise:
            raise ViolationError(f"{self.slot} starts generation {self.generation} without its layers {lacking}")
        self.held.layers.update({layer: initial(layer) for layer in lacking})
        self._vote(_FIRST_VOTE)
        self.phase = Phase.AGREEING
        self._initialised = len(lacking)

    def _agreed(self) -> None:
        stop = self._its_wires.stop_wanted(_FIRST_VOTE)
        self._say_running(self._initialised)
        assert self.held.version is not None
        self._step = self.held.version.step
        self._go_on(stop)

    def _compute(self) -> None:
        wires = self._its_wires
        if self._world.user_code_fails(self.slot, self._step):
            self._close(lost=True)
            self.phase = Phase.FAILED
            self.to_agent.append(Failed(step=self._step, where="layer", traceback="ZeroDivisionError"))
            return
        self.held.in_flight = True
        pipeline, stage = self._plan.locate(self._plan.rank_of(self.slot))
        mine = self._plan.pipelines[pipeline].stages[stage].layers
        states = {layer: self.held.layers[layer] for layer in mine}
        wires.given.setdefault(self._step, {})[self.slot] = Contribution(self._plan.pipelines[pipeline].blocks, states)
        self.phase = Phase.REDUCING

    def _reduce(self) -> None:
        mine = self._plan.layers_of(self.slot)
        self.held.layers = {layer: state for layer, state in self.held.layers.items() if layer in mine}
        self.held.digest = self._its_wires.digest(self._step)
        self.held.pending = Version(self._step + 1, self.generation)
        self._vote(self._step)
        self.phase = Phase.VOTING

    def _tally(self) -> None:
        stop = self._its_wires.stop_wanted(self._step)
        version = Version(self._step + 1, self.generation)
        commit = Commit(step=version.step, loss=loss_of(self.held.digest), grad_norm=None, time_s=self._world.now_s)
        self.held.commit(commit, version)
        self._world.committed(self, commit)
        rank = self._plan.rank_of(self.slot)
        self.to_agent.append(Committed(generation=self.generation, rank=rank, commit=commit))
        self._step = version.step
        self._go_on(stop)

    def _go_on(self, stop: bool) -> None:
        training = self._its_wires.start.action is Action.TRAIN and self._step < self._world.steps
        if training and not stop:
            self.phase = Phase.COMPUTING
            return
        if not stop:
            for layer in self._plan.layers_of(self.slot):
                if self._plan.holders(layer)[0] == self._plan.rank_of(self.slot):
                    self._world.finished(layer, self.held.layers[layer])
            self.to_agent.append(Finished(generation=self.generation, step=self._step))
        self._close(lost=False)
        self.phase = Phase.IDLE

    @property
    def _plan(self) -> Plan:
        plan = self._its_wires.plan
        assert plan is not None
        return plan

    _initialised = 0

    def _vote(self, step: int) -> None:
        self._its_wires.votes.setdefault(step, {})[self.slot] = self._newest_stop > self.generation
        if self._all_voted(step):
            self._world.voted(self._its_wires)

    def _say_running(self, initialised: int) -> None:
        start = SlotStart(slot=self.slot, form_s=0.0, move_s=0.0, received=(), initialised_layers=initialised)
        self.to_agent.append(Running(generation=self.generation, start=start))

    def _close(self, *, lost: bool) -> None:
        if self._wires is not None:
            (self._wires.lost if lost else self._wires.closed).add(self.slot)
        self._wires = None
        self._aborted = False

    def inventory(self) -> SlotInventory:
        held = self.held
        return SlotInventory(
            slot=self.slot,
            worker=self.worker,
            layers=tuple(sorted(held.layers)),
            version=held.version if held.layers else None,
            pending=held.pending,
            in_flight=held.in_flight,
            commits=tuple(held.commits),
        )


def describe(message: ToWorker | FromWorker) -> str:
    match message:
        case Stop(generation=generation, abort=abort):
            return f"Stop({generation}{', abort' if abort else ''})"
        case Start(start=start):
            return f"Start({start.generation}, {start.action}, {show(start.version)})"
        case Committed(commit=commit):
            return f"Committed({message.generation}, step {commit.step})"
        case Parked() | Running() | Broken() | Finished():
            return f"{type(message).__name__}({message.generation})"
        case _:
            return type(message).__name__

"""A fake worker process: the protocol of holdfast.worker.main and .generation, layer states that are hashes.

Two threads, as there: the reader shows stops at once, the training thread takes messages when it is free. Each
public `can_*` says whether its action is possible now; the scheduler picks.
"""

from collections import deque
from collections.abc import Iterator

from holdfast.control.snapshotting import Tally
from holdfast.model.ids import SlotId, WorkerId
from holdfast.model.messages import (
    Broken,
    Committed,
    Copied,
    Exit,
    Failed,
    Finished,
    FromWorker,
    Paced,
    Parked,
    Ready,
    Restored,
    Running,
    Spoilt,
    Start,
    Stop,
    ToWorker,
    Uploaded,
)
from holdfast.model.plan import Plan
from holdfast.model.records import Action, Commit, SlotInventory, SlotStart, Version, WorkerRef
from holdfast.simulator.buffers import Buffers
from holdfast.simulator.held import Held, show
from holdfast.simulator.paces import layer_s
from holdfast.simulator.surroundings import Phase, Surroundings
from holdfast.simulator.telling import describe
from holdfast.simulator.weights import State, initial, loss_of
from holdfast.simulator.wires import Contribution, ViolationError, Wires

_FIRST_VOTE = -1
# The watchdog of a real agent finds a worker that hangs, or waits for others for too long; here after this long.
HANG_S = 120.0
# For so long it waits for copies of its snapshot at peers.
_COPIES_S = 2.0
_WAITING_FOR_PEERS = (Phase.MOVING, Phase.AGREEING, Phase.REDUCING, Phase.VOTING)


class Worker:
    """One process. `to_worker` and `to_agent` are its socket; None in `to_agent` is its end."""

    def __init__(self, world: Surroundings, ref: WorkerRef) -> None:
        self._world, self.ref = world, ref
        self.to_worker: deque[ToWorker] = deque()
        self.to_agent: deque[FromWorker | None] = deque()
        self.phase = Phase.WARMING
        self.held = Held()
        self.buffers = Buffers(world.storing, self.to_agent.append, world.copy_fails)
        self.hung = self.seems_to_wait = False
        self.frozen = False
        self._inbox: deque[ToWorker] = deque()
        self._newest_stop = 0
        self._message: Start | None = None
        self._wires: Wires | None = None
        self._aborted = False
        self._step = 0
        self._restored: dict[int, dict[int, State]] = {}  # by generation and layer
        self._saves = False  # what it ends with is on its way to the storage
        self._moved_s = world.now_s  # when its training thread last did anything
        self._barked = -1  # the newest generation, of its agent, in which its watchdog did

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

    # Its watchdog, which is its agent's.

    def hang(self, *, waiting: bool) -> None:
        self.hung, self.seems_to_wait, self._moved_s = True, waiting, self._world.now_s

    def barks_at_s(self, generation: int) -> float | None:
        """When it has been silent for too long; None while it is idle, and once that was said in `generation`."""
        blocked = self.phase is Phase.FORMING or self.phase in _WAITING_FOR_PEERS
        if self.phase is Phase.DEAD or not (self.hung or blocked) or self._barked >= generation:
            return None
        return self._moved_s + HANG_S

    def barked(self, generation: int) -> None:
        self._barked = generation

    # The reader's thread.

    def can_read(self) -> bool:
        return bool(self.to_worker) and self._able

    def read(self) -> str:
        message = self.to_worker.popleft()
        if isinstance(message, Exit):
            self.die()
            return "exits"
        if isinstance(message, Copied | Spoilt | Uploaded):
            self.buffers.rules.heard(message)
            return describe(message)
        if isinstance(message, Restored):
            self._restored.setdefault(message.generation, {})[message.layer] = int(message.path)
            return describe(message)
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
                companions = self._companions(wires)
                linked = all(self._world.joins(self.slot, peer) for peer in companions)
                return companions <= wires.arrived and linked and self._is_served()
            case Phase.MOVING:
                wires = self._its_wires
                mine = [t for t in wires.start.transfers if t.target == self.slot]
                sent = all((t.layer, t.target) in wires.sent and self._world.hears(self.slot, t.source) for t in mine)
                return sent and self._is_restored()
            case Phase.AGREEING:
                return self._all_voted(_FIRST_VOTE) and self._hears_all()
            case Phase.REDUCING:
                given = self._its_wires.given.get(self._step, ())
                return len(given) == len(self._its_wires.ranks) and self._hears_all()
            case Phase.VOTING:
                return self._all_voted(self._step) and self._hears_all()
            case Phase.COPYING:
                return self.buffers.rules.is_copied or self._world.now_s >= self._moved_s + _COPIES_S
            case Phase.SAVING:
                return not self.buffers.rules.is_uploading or self._stop_wanted()
            case _:
                return False

    def train(self) -> str:
        """One action of the training thread."""
        before, self._moved_s = self.phase, self._world.now_s
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
            case Phase.COPYING:
                self._propose()
            case Phase.SAVING:
                self._save()
        return f"{before} -> {self.phase} (generation {self.generation}, step {self._step})"

    def can_break(self) -> bool:
        if self._wires is None or not self._able:
            return False
        if self._aborted:
            return True
        return self._hears_of_loss(self._wires) or any(self._world.now_s >= at_s for at_s in self.resets())

    def _hears_of_loss(self, wires: Wires) -> bool:
        if not wires.lost and not self._world.rough_closings:
            return False
        if self.phase is Phase.FORMING:
            gone = self._companions(wires) & wires.lost if self._world.forming_breaks else frozenset[SlotId]()
        elif self.phase in _WAITING_FOR_PEERS:
            gone = self._peers(wires) & self._gone(wires)
        else:
            return False
        return any(self._world.hears(self.slot, peer) for peer in gone)

    def deadlines(self) -> Iterator[float]:
        """When it goes on by itself, or its connections are reset."""
        if self.phase is Phase.COPYING:
            yield self._moved_s + _COPIES_S
        if not self._world.is_connected:
            yield from self.resets()

    def resets(self) -> Iterator[float]:
        """When connections to peers that it waits for are reset, because the network was cut."""
        if self._wires is not None and self.phase in _WAITING_FOR_PEERS:
            for peer in self._peers(self._wires):
                at_s = self._world.breaks_at_s(self.slot, peer)
                if at_s is not None:
                    yield at_s

    def _hears_all(self) -> bool:
        return all(self._world.hears(self.slot, peer) for peer in self._its_wires.ranks)

    def break_off(self) -> str:
        """Communication raised."""
        number, phase, wires = self.generation, self.phase, self._its_wires
        reset = any(self._world.now_s >= at_s for at_s in self.resets())
        if not self._aborted and not reset and not self._companions(wires) & wires.lost:
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
        self.buffers.settle()
        if isinstance(message, Stop):
            self.to_agent.append(Parked(generation=message.generation, inventory=self.inventory()))
            return f"parks for generation {message.generation} at {show(self.held.version)}"
        assert isinstance(message, Start)
        number = message.start.generation
        if self._newest_stop > number:
            return f"skips generation {number}, which is over"
        self._message, self._wires = message, self._world.wires(message)
        self._aborted = False
        self._moved_s = self._world.now_s
        self._saves = False
        self.buffers.rules.enter(message.start)
        self._restored = {n: layers for n, layers in self._restored.items() if n >= number}
        rolled = self.held.settle(message.start.version, message.start.roll_forward)
        if rolled:
            assert message.start.roll_forward is not None
            self._world.committed(self, message.start.roll_forward)
        if self._companions(self._wires):
            self._wires.arrived.add(self.slot)
            self.phase = Phase.FORMING
        elif self._wanted():
            self.phase = Phase.MOVING
        else:
            self._stand_by()
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
        restored = self._restored.get(self.generation, {})
        self.held.layers.update({layer: restored[layer] for layer in self._wanted()})
        self._world.restored(self, self._wanted())
        if self.slot not in wires.ranks:
            self._stand_by()
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
        self._go_on(stop, self.held.version, None, _FIRST_VOTE)

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
        if self.buffers.settle() and self._world.storing.snapshots:
            self.phase = Phase.COPYING
        else:
            self._propose()

    def _propose(self) -> None:
        self.held.pending = Version(self._step + 1, self.generation)
        if not self._may_vote():
            return
        self.phase = Phase.VOTING
        self._vote(self._step)

    def _may_vote(self) -> bool:
        """As GenerationRun._require_permit."""
        permitted = self._world.may_vote(self.worker, self.generation)
        if not permitted:
            self.to_agent.append(Broken(generation=self.generation, detail="may not vote any more"))
            self._close(lost=True)
            self.phase = Phase.IDLE
        return permitted

    def _tally(self) -> None:
        if not self._may_vote():
            return
        stop = self._its_wires.stop_wanted(self._step)
        version = Version(self._step + 1, self.generation)
        commit = Commit(step=version.step, loss=loss_of(self.held.digest), grad_norm=None, time_s=self._world.now_s)
        self.held.commit(commit, version)
        self._world.committed(self, commit)
        rank = self._plan.rank_of(self.slot)
        self.to_agent.append(Committed(generation=self.generation, rank=rank, commit=commit))
        voted_step, self._step = self._step, version.step
        pace = layer_s(self.worker, self._step, self.held.layers)
        self.to_agent.append(Paced(generation=self.generation, layer_s=pace))
        self._go_on(stop, version, commit, voted_step)

    def _go_on(self, stop: bool, version: Version, commit: Commit | None, voted: int) -> None:
        """`voted`: the vote that showed it."""
        wires, mine = self._its_wires, self._plan.layers_of(self.slot)
        if wires.start.action is Action.TRAIN and not stop:
            is_due = self._is_due(version.step, wires.tally(voted))
            if self._step < self._world.steps:
                if is_due:
                    layers = {layer: self.held.layers[layer] for layer in mine}
                    self.buffers.begin(version, layers, commit, wires.tally(voted))
                self.phase = Phase.COMPUTING
                return
        if stop:
            self._leave()
            return
        for layer in mine:
            if self._plan.holders(layer)[0] == self._plan.rank_of(self.slot):
                self._world.finished(layer, self.held.layers[layer])
        has_checkpoint = bool(wires.start.checkpoint) and wires.start.version == version
        if self._world.storing.checkpoints and not has_checkpoint:
            self.phase = Phase.SAVING
        else:
            self._finish()

    def _is_due(self, step: int, tally: Tally) -> bool:
        """Whether a snapshot is to be taken; the checkers hear what the vote showed of the one before."""
        rules, kept = self.buffers.rules, self.buffers.rules.kept
        is_due = rules.is_due(step, tally)
        if rules.kept is not None and rules.kept != kept and not tally.uncopied:
            self._world.kept(self, rules.kept)
        if is_due:
            self._world.overwrites(self, rules.kept)
        return is_due

    def _save(self) -> None:
        """As Snapshots.write_urgently: after the upload before it, and until it is over, or a stop."""
        if not self._saves and not self.buffers.rules.is_uploading:
            self._saves = True
            mine = self._plan.layers_of(self.slot) if self.slot in self._its_wires.ranks else tuple(self.held.layers)
            assert self.held.version is not None
            self.buffers.begin_urgently(self.held.version, {layer: self.held.layers[layer] for layer in mine})
        elif self.slot in self._its_wires.ranks:
            self._finish()
        else:
            self._leave()

    def _finish(self) -> None:
        self.to_agent.append(Finished(generation=self.generation, step=self._step))
        self._leave()

    def _stand_by(self) -> None:
        """Without a part in the layout."""
        self._say_running(0)
        if self._its_wires.start.urgent and self.held.layers and self._world.storing.checkpoints:
            self.phase = Phase.SAVING
        else:
            self._leave()

    def _leave(self) -> None:
        self._close(lost=False)
        self.phase = Phase.IDLE

    def _wanted(self) -> tuple[int, ...]:
        """Layers that its agent fetches."""
        return tuple(r.layer for r in self._its_wires.start.restores if r.target == self.slot)

    def _is_restored(self) -> bool:
        return set(self._wanted()) <= self._restored.get(self.generation, {}).keys()

    def _stop_wanted(self) -> bool:
        return self._newest_stop > self.generation

    @property
    def _plan(self) -> Plan:
        plan = self._its_wires.plan
        assert plan is not None
        return plan

    _initialised = 0

    def _vote(self, step: int) -> None:
        self._its_wires.votes.setdefault(step, {})[self.slot] = self._stop_wanted()
        self._its_wires.standings.setdefault(step, {})[self.slot] = self.buffers.rules.standing()
        if step != _FIRST_VOTE and self._all_voted(step):  # the first one commits nothing
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
            layer_cost_s=layer_s(self.worker, self._step, held.layers) if held.commits else (),
        )

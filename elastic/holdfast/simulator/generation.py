"""One generation in a fake worker: mirror of holdfast.worker.generation, layer states that are hashes.

`can_go_on` says whether the next phase is possible now, `go_on` enters it; the scheduler picks.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from holdfast.control.snapshotting import Tally
from holdfast.model.ids import SlotId
from holdfast.model.messages import Broken, Committed, Failed, Finished, Paced, Running, Start
from holdfast.model.plan import Plan
from holdfast.model.records import Action, Commit, SlotStart, Version
from holdfast.simulator.paces import layer_s
from holdfast.simulator.surroundings import WAITING_FOR_PEERS, Phase, Surroundings
from holdfast.simulator.weights import initial, loss_of
from holdfast.simulator.wires import Contribution, ViolationError, Wires

if TYPE_CHECKING:
    from holdfast.simulator.worker import Worker

_FIRST_VOTE = -1
# For so long a worker waits for copies of its snapshot at peers.
_COPIES_S = 2.0


class GenerationRun:
    """From its start to its end, on the training thread. It is over when `phase` is IDLE, or FAILED."""

    def __init__(self, world: Surroundings, worker: "Worker", message: Start) -> None:
        self._world, self._worker, self._message = world, worker, message
        self._wires: Wires = world.wires(message)
        self.step = worker.step
        self.phase = Phase.FORMING
        self._initialised = 0
        self._saves = False  # what it ends with is on its way to the storage

    @property
    def number(self) -> int:
        return self._wires.start.generation

    @property
    def _slot(self) -> SlotId:
        return self._worker.slot

    @property
    def _plan(self) -> Plan:
        assert self._wires.plan is not None
        return self._wires.plan

    def enter(self) -> bool:
        """Roll forward or back, and see what is to be waited for; whether a step was rolled forward."""
        held, start = self._worker.held, self._wires.start
        rolled = held.settle(start.version, start.roll_forward)
        if rolled:
            assert start.roll_forward is not None
            self._world.committed(self._worker, start.roll_forward)
        if self._companions():
            self._wires.arrived.add(self._slot)
        elif self._wanted():
            self.phase = Phase.MOVING
        else:
            self._stand_by()
        return rolled

    def can_go_on(self) -> bool:
        wires, rules = self._wires, self._worker.buffers.rules
        match self.phase:
            case Phase.COMPUTING:
                return True
            case Phase.FORMING:
                companions = self._companions()
                linked = all(self._world.joins(self._slot, peer) for peer in companions)
                served = self._world.is_served(self._message, self._slot)
                return companions <= wires.arrived and linked and served
            case Phase.MOVING:
                mine = [t for t in wires.start.transfers if t.target == self._slot]
                sent = all((t.layer, t.target) in wires.sent and self._world.hears(self._slot, t.source) for t in mine)
                return sent and self.is_restored
            case Phase.AGREEING:
                return self._all_voted(_FIRST_VOTE) and self._hears_all()
            case Phase.REDUCING:
                return len(wires.given.get(self.step, ())) == len(wires.ranks) and self._hears_all()
            case Phase.COPYING:
                return rules.is_copied or self._world.now_s >= self._worker.moved_s + _COPIES_S
            case Phase.VOTING:
                return self._all_voted(self.step) and self._hears_all()
            case Phase.SAVING:
                return not rules.is_uploading or self._stop_wanted
            case _:
                return False

    def go_on(self) -> None:
        match self.phase:
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
            case Phase.COPYING:
                self._propose()
            case Phase.VOTING:
                self._tally()
            case Phase.SAVING:
                self._save()

    # What it hears of its peers.

    def hears_of_loss(self) -> bool:
        """That one is gone that it waits for."""
        wires = self._wires
        if not wires.lost and not self._world.rough_closings:
            return False
        if self.phase is Phase.FORMING:
            gone = self._companions() & wires.lost if self._world.forming_breaks else frozenset[SlotId]()
        elif self.phase in WAITING_FOR_PEERS:
            gone = self._peers() & (wires.lost | wires.closed if self._world.rough_closings else wires.lost)
        else:
            return False
        return any(self._world.hears(self._slot, peer) for peer in gone)

    def deadlines(self) -> Iterator[float]:
        """When it goes on by itself, or its connections are reset."""
        if self.phase is Phase.COPYING:
            yield self._worker.moved_s + _COPIES_S
        if not self._world.is_connected:
            yield from self.resets()

    def resets(self) -> Iterator[float]:
        """When connections to peers that it waits for are reset, because the network was cut."""
        if self.phase in WAITING_FOR_PEERS:
            for peer in self._peers():
                at_s = self._world.breaks_at_s(self._slot, peer)
                if at_s is not None:
                    yield at_s

    @property
    def has_lost_peers(self) -> bool:
        """Which no closing that was meant well explains."""
        return bool(self._companions() & self._wires.lost)

    @property
    def is_restored(self) -> bool:
        """Whether its agent has brought what it was to fetch."""
        return set(self._wanted()) <= self._worker.restored.get(self.number, {}).keys()

    def end(self, phase: Phase = Phase.IDLE, *, lost: bool = False) -> None:
        (self._wires.lost if lost else self._wires.closed).add(self._slot)
        self.phase = phase

    def _hears_all(self) -> bool:
        return all(self._world.hears(self._slot, peer) for peer in self._wires.ranks)

    def _companions(self) -> frozenset[SlotId]:
        """Members of all groups this worker forms."""
        wires = self._wires
        movers = wires.movers if self._slot in wires.movers else frozenset[SlotId]()
        return movers | (wires.ranks if self._slot in wires.ranks else frozenset())

    def _peers(self) -> frozenset[SlotId]:
        """Those it waits for now."""
        return (self._wires.movers if self.phase is Phase.MOVING else self._wires.ranks) - {self._slot}

    def _wanted(self) -> tuple[int, ...]:
        """Layers that its agent fetches."""
        return tuple(r.layer for r in self._wires.start.restores if r.target == self._slot)

    @property
    def _stop_wanted(self) -> bool:
        return self._worker.newest_stop > self.number

    # Its phases.

    def _form(self) -> None:
        held, wires = self._worker.held, self._wires
        for transfer in wires.start.transfers:
            if transfer.source == self._slot:
                if transfer.layer not in held.layers:
                    raise ViolationError(f"{self._slot} is to send layer {transfer.layer}, which it does not hold")
                wires.sent[transfer.layer, transfer.target] = held.layers[transfer.layer]
        self.phase = Phase.MOVING

    def _receive(self) -> None:
        held, wires = self._worker.held, self._wires
        for t in wires.start.transfers:
            if t.target == self._slot:
                held.layers[t.layer] = wires.sent[t.layer, t.target]
        restored = self._worker.restored.get(self.number, {})
        held.layers.update({layer: restored[layer] for layer in self._wanted()})
        self._world.restored(self._worker, self._wanted())
        if self._slot not in wires.ranks:
            self._stand_by()
            return
        lacking = [layer for layer in self._plan.layers_of(self._slot) if layer not in held.layers]
        if lacking and not wires.start.initialise:
            raise ViolationError(f"{self._slot} starts generation {self.number} without its layers {lacking}")
        held.layers.update({layer: initial(layer) for layer in lacking})
        self._vote(_FIRST_VOTE)
        self.phase = Phase.AGREEING
        self._initialised = len(lacking)

    def _agreed(self) -> None:
        stop, version = self._wires.stop_wanted(_FIRST_VOTE), self._worker.held.version
        self._say_running(self._initialised)
        assert version is not None
        self.step = version.step
        self._voted(_FIRST_VOTE, version, None, stop=stop)

    def _compute(self) -> None:
        worker, wires = self._worker, self._wires
        if self._world.user_code_fails(self._slot, self.step):
            self.end(Phase.FAILED, lost=True)
            worker.to_agent.append(Failed(step=self.step, where="layer", traceback="ZeroDivisionError"))
            return
        worker.held.in_flight = True
        pipeline, stage = self._plan.locate(self._plan.rank_of(self._slot))
        mine = self._plan.pipelines[pipeline].stages[stage].layers
        states = {layer: worker.held.layers[layer] for layer in mine}
        wires.given.setdefault(self.step, {})[self._slot] = Contribution(self._plan.pipelines[pipeline].blocks, states)
        self.phase = Phase.REDUCING

    def _reduce(self) -> None:
        held, mine = self._worker.held, self._plan.layers_of(self._slot)
        held.layers = {layer: state for layer, state in held.layers.items() if layer in mine}
        held.digest = self._wires.digest(self.step)
        if self._worker.buffers.settle() and self._world.storing.snapshots:
            self.phase = Phase.COPYING
        else:
            self._propose()

    def _propose(self) -> None:
        self._worker.held.pending = Version(self.step + 1, self.number)
        if self._may_vote():
            self.phase = Phase.VOTING
            self._vote(self.step)

    def _may_vote(self) -> bool:
        """As the real one's _require_permit."""
        permitted = self._world.may_vote(self._worker.worker, self.number)
        if not permitted:
            self._worker.to_agent.append(Broken(generation=self.number, detail="may not vote any more"))
            self.end(lost=True)
        return permitted

    def _tally(self) -> None:
        if not self._may_vote():
            return
        worker, held, voted = self._worker, self._worker.held, self.step
        stop = self._wires.stop_wanted(voted)
        version = Version(voted + 1, self.number)
        commit = Commit(step=version.step, loss=loss_of(held.digest), grad_norm=None, time_s=self._world.now_s)
        held.commit(commit, version)
        self._world.committed(worker, commit)
        rank = self._plan.rank_of(self._slot)
        worker.to_agent.append(Committed(generation=self.number, rank=rank, commit=commit))
        self.step = version.step
        worker.to_agent.append(Paced(generation=self.number, layer_s=layer_s(worker.worker, self.step, held.layers)))
        self._voted(voted, version, commit, stop=stop)

    def _voted(self, vote: int, version: Version, commit: Commit | None, *, stop: bool) -> None:
        if stop:
            self.end()
            return
        mine = {layer: self._worker.held.layers[layer] for layer in self._plan.layers_of(self._slot)}
        if self._wires.start.action is Action.TRAIN:
            tally = self._wires.tally(vote)
            is_due = self._is_due(version.step, tally)
            if self.step < self._world.steps:
                if is_due:
                    self._worker.buffers.begin(version, mine, commit, tally)
                self.phase = Phase.COMPUTING
                return
        for layer, state in mine.items():
            if self._plan.holders(layer)[0] == self._plan.rank_of(self._slot):
                self._world.finished(layer, state)
        start = self._wires.start
        has_checkpoint = bool(start.checkpoint) and start.version == version
        if self._world.storing.checkpoints and not has_checkpoint:
            self.phase = Phase.SAVING
        else:
            self._finish()

    def _is_due(self, step: int, tally: Tally) -> bool:
        """Whether a snapshot is to be taken; the checkers hear what the vote showed of the one before."""
        rules, begun = self._worker.buffers.rules, self._worker.buffers.rules.begun
        is_due = rules.is_due(step, tally)
        if begun is not None and not tally.uncopied and not tally.failed:
            self._world.kept(self._worker, begun)
        if is_due:
            self._world.overwrites(self._worker, rules.kept)
        return is_due

    def _save(self) -> None:
        """As Snapshots.write_urgently: after the upload before it, and until it is over, or a stop."""
        held, buffers, is_rank = self._worker.held, self._worker.buffers, self._slot in self._wires.ranks
        if not self._saves and not buffers.rules.is_uploading:
            self._saves = True
            mine = self._plan.layers_of(self._slot) if is_rank else tuple(held.layers)
            assert held.version is not None
            buffers.begin_urgently(held.version, {layer: held.layers[layer] for layer in mine})
        elif is_rank:
            self._finish()
        else:
            self.end()

    def _finish(self) -> None:
        self._worker.to_agent.append(Finished(generation=self.number, step=self.step))
        self.end()

    def _stand_by(self) -> None:
        """Without a part in the layout."""
        self._say_running(0)
        if self._wires.start.urgent and self._worker.held.layers and self._world.storing.checkpoints:
            self.phase = Phase.SAVING
        else:
            self.end()

    def _all_voted(self, step: int) -> bool:
        return len(self._wires.votes.get(step, ())) == len(self._wires.ranks)

    def _vote(self, step: int) -> None:
        self._wires.votes.setdefault(step, {})[self._slot] = self._stop_wanted
        self._wires.standings.setdefault(step, {})[self._slot] = self._worker.buffers.rules.standing()
        if step != _FIRST_VOTE and self._all_voted(step):  # the first one commits nothing
            self._world.voted(self._wires)

    def _say_running(self, initialised: int) -> None:
        start = SlotStart(slot=self._slot, form_s=0.0, move_s=0.0, received=(), initialised_layers=initialised)
        self._worker.to_agent.append(Running(generation=self.number, start=start))

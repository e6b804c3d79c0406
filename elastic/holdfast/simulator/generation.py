"""One generation in a fake worker: mirror of holdfast.worker.generation, layer states that are hashes.

`can_go_on` says whether the next phase is possible now, `go_on` enters it; the scheduler picks.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from holdfast.model.ids import SlotId
from holdfast.model.messages import Broken, Committed, Failed, Finished, Paced, Running, Start
from holdfast.model.plan import Plan
from holdfast.model.records import Action, Commit, SlotStart, Version
from holdfast.simulator.links import Links
from holdfast.simulator.moving import Moving
from holdfast.simulator.paces import layer_s
from holdfast.simulator.saving import Saving
from holdfast.simulator.surroundings import Phase, Surroundings
from holdfast.simulator.weights import loss_of
from holdfast.simulator.wires import Contribution, Wires

if TYPE_CHECKING:
    from holdfast.simulator.worker import Worker

_FIRST_VOTE = -1


class GenerationRun:
    """From its start to its end, on the training thread. It is over when `phase` is IDLE, or FAILED."""

    def __init__(self, world: Surroundings, worker: "Worker", message: Start) -> None:
        self._world, self._worker, self._message = world, worker, message
        self._wires: Wires = world.wires(message)
        self.links = Links(world, self._wires, worker.slot)
        self.moving = Moving(world, worker, self._wires)
        self._saving = Saving(world, worker)
        self.step = worker.step
        self.phase = Phase.FORMING
        self._initialised = 0

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
        if self.links.companions:
            self._wires.arrived.add(self._slot)
        elif self.moving.restores:
            self.phase = Phase.MOVING
        else:
            self._stand_by()
        return rolled

    def can_go_on(self) -> bool:
        match self.phase:
            case Phase.COMPUTING:
                return True
            case Phase.FORMING:
                return self.links.are_formed and self._world.is_served(self._message, self._slot)
            case Phase.MOVING:
                return self.moving.is_complete
            case Phase.AGREEING:
                return self.links.have_votes(_FIRST_VOTE)
            case Phase.REDUCING:
                return self.links.have_contributions(self.step)
            case Phase.COPYING:
                return self._saving.is_copied
            case Phase.VOTING:
                return self.links.have_votes(self.step)
            case Phase.SAVING:
                return not self._saving.is_uploading or self._stop_wanted
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

    def deadlines(self) -> Iterator[float]:
        """When it goes on by itself, or its connections are reset."""
        if self.phase is Phase.COPYING:
            yield self._saving.copied_by_s
        if not self._world.is_connected:
            yield from self.links.resets(self.phase)

    def end(self, phase: Phase = Phase.IDLE, *, lost: bool = False) -> None:
        (self._wires.lost if lost else self._wires.closed).add(self._slot)
        self.phase = phase

    @property
    def _stop_wanted(self) -> bool:
        return self._worker.newest_stop > self.number

    # Its phases.

    def _form(self) -> None:
        self.moving.send()
        self.phase = Phase.MOVING

    def _receive(self) -> None:
        self.moving.receive()
        if self._slot not in self._wires.ranks:
            self._stand_by()
            return
        self._initialised = self.moving.initialise(self._plan.layers_of(self._slot))
        self._vote(_FIRST_VOTE)
        self.phase = Phase.AGREEING

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
        if self._saving.settle():
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
            is_last = self.step >= self._world.steps
            self._saving.voted(version, mine, commit, self._wires.tally(vote), is_last=is_last)
            if not is_last:
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

    def _save(self) -> None:
        """Until what it ends with is written, or a stop."""
        held, is_rank = self._worker.held, self._slot in self._wires.ranks
        mine = self._plan.layers_of(self._slot) if is_rank else tuple(held.layers)
        assert held.version is not None
        if self._saving.write_urgently(held.version, {layer: held.layers[layer] for layer in mine}):
            return
        if is_rank:
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

    def _vote(self, step: int) -> None:
        self._wires.votes.setdefault(step, {})[self._slot] = self._stop_wanted
        self._wires.standings.setdefault(step, {})[self._slot] = self._worker.buffers.rules.standing()
        if step != _FIRST_VOTE and self._wires.is_voted(step):  # the first one commits nothing
            self._world.voted(self._wires)

    def _say_running(self, initialised: int) -> None:
        start = SlotStart(slot=self._slot, form_s=0.0, move_s=0.0, received=(), initialised_layers=initialised)
        self._worker.to_agent.append(Running(generation=self.number, start=start))

"""A fake worker process: the protocol of holdfast.worker.main. Its generations are `generation.GenerationRun`s.

Two threads, as there: the reader shows stops at once, the training thread takes messages when it is free. Each
public `can_*` says whether its action is possible now; the scheduler picks.
"""

from collections import deque
from collections.abc import Iterator

from holdfast.model.ids import SlotId, WorkerId
from holdfast.model.messages import (
    Broken,
    Copied,
    Exit,
    FromWorker,
    Parked,
    Ready,
    Restored,
    Spoilt,
    Start,
    Stop,
    ToWorker,
    Uploaded,
)
from holdfast.model.records import SlotInventory, WorkerRef
from holdfast.simulator.buffers import Buffers
from holdfast.simulator.generation import GenerationRun
from holdfast.simulator.held import Held, show
from holdfast.simulator.paces import layer_s
from holdfast.simulator.surroundings import WAITING_FOR_PEERS, Phase, Surroundings
from holdfast.simulator.telling import describe
from holdfast.simulator.weights import State

# The watchdog of a real agent finds a worker that hangs, or waits for others for too long; here after this long.
HANG_S = 120.0


class Worker:
    """One process. `to_worker` and `to_agent` are its socket; None in `to_agent` is its end."""

    def __init__(self, world: Surroundings, ref: WorkerRef) -> None:
        self._world, self.ref = world, ref
        self.to_worker: deque[ToWorker] = deque()
        self.to_agent: deque[FromWorker | None] = deque()
        self.held = Held()
        self.buffers = Buffers(world.storing, self.to_agent.append, world.copy_fails)
        self.restored: dict[int, dict[int, State]] = {}  # by generation and layer
        self.newest_stop = 0
        self.step = 0
        self.moved_s = world.now_s  # when its training thread last did anything
        self.hung = self.seems_to_wait = False
        self.frozen = False
        self._phase = Phase.WARMING  # between generations
        self._run: GenerationRun | None = None
        self._aborted = False
        self._inbox: deque[ToWorker] = deque()
        self._barked = -1  # the newest generation, of its agent, in which its watchdog did

    @property
    def slot(self) -> SlotId:
        return self.ref.slot

    @property
    def worker(self) -> WorkerId:
        return self.ref.worker

    @property
    def phase(self) -> Phase:
        return self._run.phase if self._run is not None else self._phase

    @property
    def alive(self) -> bool:
        return self._phase is not Phase.DEAD

    @property
    def _able(self) -> bool:
        return self.alive and not self.hung and not self.frozen

    @property
    def generation(self) -> int:
        return self._run.number if self._run is not None else 0

    def die(self) -> None:
        if self.alive:
            self._leave(Phase.DEAD, lost=True)
            self.to_worker.clear()
            self.to_agent.append(None)

    # Its watchdog, which is its agent's.

    def hang(self, *, waiting: bool) -> None:
        self.hung, self.seems_to_wait, self.moved_s = True, waiting, self._world.now_s

    def barks_at_s(self, generation: int) -> float | None:
        """When it has been silent for too long; None while it is idle, while it waits for its agent, and once that was
        said in `generation`."""
        run = self._run
        blocked = run is not None and (run.phase is Phase.FORMING or run.phase in WAITING_FOR_PEERS)
        blocked = blocked and run is not None and (run.phase is not Phase.MOVING or run.moving.is_restored)
        if not self.alive or not (self.hung or blocked) or self._barked >= generation:
            return None
        return self.moved_s + HANG_S

    def barked(self, generation: int) -> None:
        self._barked = generation

    # The reader's thread.

    def can_read(self) -> bool:
        return bool(self.to_worker) and self._able

    def read(self) -> str:
        match message := self.to_worker.popleft():
            case Exit():
                self.die()
                return "exits"
            case Copied() | Spoilt() | Uploaded():
                self.buffers.rules.heard(message)
            case Restored():
                self.restored.setdefault(message.generation, {})[message.layer] = int(message.path)
            case Start():
                self._inbox.append(message)
            case Stop():
                self._inbox.append(message)
                self.newest_stop = max(self.newest_stop, message.generation)
                self._aborted = self._aborted or (message.abort and self._run is not None)
        return describe(message)

    # The training thread.

    def can_train(self) -> bool:
        if not self._able or self._aborted:
            return False
        if self._run is not None:
            return self._run.can_go_on()
        return self._phase is Phase.WARMING or (self._phase is Phase.IDLE and bool(self._inbox))

    def train(self) -> str:
        """One action of the training thread."""
        before, self.moved_s = self.phase, self._world.now_s
        if self._world.dies(self.slot, before, self.step):
            self.die()
            return f"dies of itself while {before}"
        if before is Phase.IDLE:
            return self._take()
        if self._run is None:
            self._warm()
        else:
            self._run.go_on()
            self._close_if_over()
        return f"{before} -> {self.phase} (generation {self.generation}, step {self.step})"

    def can_break(self) -> bool:
        if self._run is None or not self._able:
            return False
        return self._aborted or self._run.links.hear_of_loss(self._run.phase) or self._is_reset(self._run)

    def break_off(self) -> str:
        """Communication raised."""
        number, phase, run = self.generation, self.phase, self._run
        assert run is not None
        if not self._aborted and not self._is_reset(run) and not run.links.have_lost:
            self._world.rough_closings -= 1
        self._leave(Phase.IDLE, lost=True)
        self.to_agent.append(Broken(generation=number, detail="a peer was lost"))
        return f"breaks off while {phase} (generation {number}, step {self.step})"

    def deadlines(self) -> Iterator[float]:
        """When it goes on by itself, or its connections are reset."""
        if self._run is not None:
            yield from self._run.deadlines()

    def _is_reset(self, run: GenerationRun) -> bool:
        return any(self._world.now_s >= at_s for at_s in run.links.resets(run.phase))

    def _warm(self) -> None:
        self._phase = Phase.IDLE
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
        if self.newest_stop > number:
            return f"skips generation {number}, which is over"
        self.buffers.rules.enter(message.start)
        self.restored = {n: layers for n, layers in self.restored.items() if n >= number}
        self._run = GenerationRun(self._world, self, message)
        rolled = self._run.enter()
        self._close_if_over()
        return f"enters generation {number} at {show(message.start.version)}{', rolled forward' if rolled else ''}"

    def _close_if_over(self) -> None:
        """What the generation left behind."""
        run = self._run
        assert run is not None
        self.step = run.step
        if run.phase in (Phase.IDLE, Phase.FAILED):
            self._phase, self._run, self._aborted = run.phase, None, False

    def _leave(self, phase: Phase, *, lost: bool) -> None:
        if self._run is not None:
            self._run.end(lost=lost)
        self._phase, self._run, self._aborted = phase, None, False

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
            layer_cost_s=layer_s(self.worker, self.step, held.layers) if held.commits else (),
        )

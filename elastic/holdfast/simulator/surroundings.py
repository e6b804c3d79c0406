"""What a fake worker goes through, and what it needs of the world around it."""

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from holdfast.model.ids import SlotId, WorkerId
from holdfast.model.messages import Start
from holdfast.model.records import Commit, Version
from holdfast.simulator.buffers import Storing
from holdfast.simulator.weights import State
from holdfast.simulator.wires import Wires

if TYPE_CHECKING:
    from holdfast.simulator.worker import Worker


class Phase(StrEnum):
    WARMING = "warming"
    IDLE = "idle"
    FORMING = "forming"
    MOVING = "moving"
    AGREEING = "agreeing"
    COMPUTING = "computing"
    REDUCING = "reducing"
    COPYING = "copying"
    VOTING = "voting"
    SAVING = "saving"
    FAILED = "failed"
    DEAD = "dead"


# Of these phases a loss is noticed, and a cut.
WAITING_FOR_PEERS = (Phase.MOVING, Phase.AGREEING, Phase.REDUCING, Phase.VOTING)


class Surroundings(Protocol):
    """What a worker needs of the world: everyone else's side of the wires, the checkers, a few dials."""

    now_s: float
    forming_breaks: bool
    rough_closings: int

    @property
    def steps(self) -> int: ...

    @property
    def storing(self) -> Storing: ...

    def copy_fails(self) -> bool: ...

    @property
    def is_connected(self) -> bool: ...

    def wires(self, message: Start) -> Wires: ...

    def is_served(self, message: Start, slot: SlotId) -> bool: ...

    def may_vote(self, worker: WorkerId, generation: int) -> bool: ...

    def restored(self, worker: "Worker", layers: Iterable[int]) -> None: ...

    def overwrites(self, worker: "Worker", kept: Version | None) -> None: ...

    def kept(self, worker: "Worker", version: Version) -> None: ...

    def voted(self, wires: Wires) -> None: ...

    def committed(self, worker: "Worker", commit: Commit) -> None: ...

    def finished(self, layer: int, state: State) -> None: ...

    def hears(self, slot: SlotId, other: SlotId) -> bool: ...

    def joins(self, slot: SlotId, other: SlotId) -> bool: ...

    def breaks_at_s(self, slot: SlotId, other: SlotId) -> float | None: ...

    def user_code_fails(self, slot: SlotId, step: int) -> bool: ...

    def dies(self, slot: SlotId, phase: Phase, step: int) -> bool: ...

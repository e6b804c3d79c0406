"""What a node's session knows of the worker in one slot."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from holdfast.model.ids import NodeId, SlotId
from holdfast.model.measured import PaceRecord, SlotPace
from holdfast.model.messages import Paced
from holdfast.model.records import SlotInventory, SlotStart, WorkerRef


class WorkerState(StrEnum):
    STARTING = "starting"
    WARM = "warm"


@dataclass(slots=True)
class SlotWorker:
    """One slot's process."""

    state: WorkerState = WorkerState.STARTING
    ref: WorkerRef | None = None
    failed_starts: int = 0
    given_up: bool = False  # it does not get warm here; the slot stays empty
    told_start: int = 0  # newest generation whose Start it was told
    at_work: bool = False  # it has a part in that generation, and may take until a step's end to stop
    inventory: tuple[int, SlotInventory] | None = None  # by generation
    running: tuple[int, SlotStart] | None = None
    finished: int = 0
    pace: Paced | None = None


def pace_of(node: NodeId, generation: int, workers: Mapping[int, SlotWorker]) -> PaceRecord:
    """What its workers have told of their steps in that generation."""
    told = {index: worker.pace for index, worker in sorted(workers.items()) if worker.pace is not None}
    return PaceRecord(
        generation=generation,
        node=node,
        slots=tuple(
            SlotPace(slot=SlotId(node, index), layer_s=pace.layer_s)
            for index, pace in told.items()
            if pace.generation == generation
        ),
    )

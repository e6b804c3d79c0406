"""Which layers who holds: by the newest start, and by what was said since."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from holdfast.model.ids import WorkerId
from holdfast.model.records import SlotInventory, StartRecord, WorkerRef


@dataclass(slots=True)
class Entrusted:
    """As one leader knows it."""

    is_exposed: bool = False  # by the newest start some layer is on one node only
    _layers: dict[WorkerId, frozenset[int]] = field(default_factory=dict)
    _has_seen_start: bool = False  # who is not listed holds none

    def begin(self, start: StartRecord, members: Iterable[WorkerRef]) -> None:
        self._has_seen_start = True
        plan, worker_of = start.plan, {ref.slot: ref.worker for ref in members}
        self.is_exposed = plan is not None and any(
            len({plan.stages[rank].slot.node for rank in segment.ranks}) < 2 for segment in plan.segments
        )
        if plan is not None:
            given = ((worker_of.get(stage.slot), frozenset(stage.layers)) for stage in plan.stages)
            self._layers = {worker: layers for worker, layers in given if worker is not None}
            return
        for transfer in start.transfers:
            if (worker := worker_of.get(transfer.target)) is not None:
                self._layers[worker] = self._layers.get(worker, frozenset()) | {transfer.layer}

    def said(self, inventory: SlotInventory) -> None:
        self._layers[inventory.worker] = frozenset(inventory.layers)

    def keep(self, alive: Collection[WorkerId]) -> None:
        """The others are gone."""
        self._layers = {worker: layers for worker, layers in self._layers.items() if worker in alive}

    def held_by(self, workers: Collection[WorkerId]) -> frozenset[int] | None:
        """None: it is not known of all of them."""
        if not self._has_seen_start and any(worker not in self._layers for worker in workers):
            return None
        return frozenset[int]().union(*(self._layers.get(worker, frozenset()) for worker in workers))

"""Layers on their way to a fake worker before it trains: mirror of holdfast.worker.transfer and .restoring.

They come from peers, from its agent, or, where nobody has them yet, out of nothing.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from holdfast.simulator.surroundings import Surroundings
from holdfast.simulator.weights import State, initial
from holdfast.simulator.wires import ViolationError, Wires

if TYPE_CHECKING:
    from holdfast.simulator.worker import Worker


class Moving:
    """Of one generation in one worker."""

    def __init__(self, world: Surroundings, worker: "Worker", wires: Wires) -> None:
        self._world, self._worker, self._wires = world, worker, wires

    @property
    def restores(self) -> tuple[int, ...]:
        """Layers that its agent fetches."""
        return tuple(r.layer for r in self._wires.start.restores if r.target == self._worker.slot)

    @property
    def is_restored(self) -> bool:
        """Whether its agent has brought these."""
        return set(self.restores) <= self._brought.keys()

    @property
    def is_complete(self) -> bool:
        """Whether all is here that is to come."""
        wires, slot = self._wires, self._worker.slot
        mine = [t for t in wires.start.transfers if t.target == slot]
        sent = all((t.layer, t.target) in wires.sent and self._world.hears(slot, t.source) for t in mine)
        return sent and self.is_restored

    @property
    def _brought(self) -> dict[int, State]:
        return self._worker.restored.get(self._wires.start.generation, {})

    def send(self) -> None:
        """Raises: ViolationError: it does not hold what it is to send."""
        held, slot = self._worker.held, self._worker.slot
        for transfer in self._wires.start.transfers:
            if transfer.source == slot:
                if transfer.layer not in held.layers:
                    raise ViolationError(f"{slot} is to send layer {transfer.layer}, which it does not hold")
                self._wires.sent[transfer.layer, transfer.target] = held.layers[transfer.layer]

    def receive(self) -> None:
        held, slot, brought = self._worker.held, self._worker.slot, self._brought
        for t in self._wires.start.transfers:
            if t.target == slot:
                held.layers[t.layer] = self._wires.sent[t.layer, t.target]
        held.layers.update({layer: brought[layer] for layer in self.restores})
        self._world.restored(self._worker, self.restores)

    def initialise(self, layers: Iterable[int]) -> int:
        """How many of these it lacked. Raises: ViolationError: all were to come from somewhere."""
        held, start, slot = self._worker.held, self._wires.start, self._worker.slot
        lacking = [layer for layer in layers if layer not in held.layers]
        if lacking and not start.initialise:
            raise ViolationError(f"{slot} starts generation {start.generation} without its layers {lacking}")
        held.layers.update({layer: initial(layer) for layer in lacking})
        return len(lacking)

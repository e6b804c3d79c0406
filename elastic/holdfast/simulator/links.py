"""One worker's links to the others of its generation: whom it waits for, what has reached it, when it hears of a loss.

It only looks: the generation itself puts on the wires what its worker sends.
"""

from collections.abc import Iterator

from holdfast.model.ids import SlotId
from holdfast.simulator.surroundings import WAITING_FOR_PEERS, Phase, Surroundings
from holdfast.simulator.wires import Wires


class Links:
    """Of one slot."""

    def __init__(self, world: Surroundings, wires: Wires, slot: SlotId) -> None:
        self._world, self._wires, self._slot = world, wires, slot

    @property
    def companions(self) -> frozenset[SlotId]:
        """Members of all groups this worker forms."""
        wires = self._wires
        movers = wires.movers if self._slot in wires.movers else frozenset[SlotId]()
        return movers | (wires.ranks if self._slot in wires.ranks else frozenset())

    def _peers(self, phase: Phase) -> frozenset[SlotId]:
        """Those it waits for in that phase."""
        return (self._wires.movers if phase is Phase.MOVING else self._wires.ranks) - {self._slot}

    # What has reached it.

    @property
    def are_formed(self) -> bool:
        companions = self.companions
        return companions <= self._wires.arrived and all(self._world.joins(self._slot, peer) for peer in companions)

    def have_votes(self, step: int) -> bool:
        return self._wires.is_voted(step) and self._hear_all()

    def have_contributions(self, step: int) -> bool:
        return self._wires.is_given(step) and self._hear_all()

    def _hear_all(self) -> bool:
        return all(self._world.hears(self._slot, peer) for peer in self._wires.ranks)

    # What it hears of its peers.

    def hear_of_loss(self, phase: Phase) -> bool:
        """That one is gone that it waits for."""
        wires = self._wires
        if not wires.lost and not self._world.rough_closings:
            return False
        if phase is Phase.FORMING:
            gone = self.companions & wires.lost if self._world.forming_breaks else frozenset[SlotId]()
        elif phase in WAITING_FOR_PEERS:
            gone = self._peers(phase) & (wires.lost | wires.closed if self._world.rough_closings else wires.lost)
        else:
            return False
        return any(self._world.hears(self._slot, peer) for peer in gone)

    def resets(self, phase: Phase) -> Iterator[float]:
        """When connections to peers that it waits for are reset, because the network was cut."""
        if phase in WAITING_FOR_PEERS:
            for peer in self._peers(phase):
                at_s = self._world.breaks_at_s(self._slot, peer)
                if at_s is not None:
                    yield at_s

    @property
    def have_lost(self) -> bool:
        """Whether one of them is gone that did not end as it should."""
        return bool(self.companions & self._wires.lost)

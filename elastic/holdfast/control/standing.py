"""How often nodes were lost of late, and what follows: none the first time, then a wait that doubles, then quarantine.

Rule: a node that comes and goes costs less and less. Its wait is counted in committed steps, which a new leader knows
as well, and in the leader's own time, which a new leader begins anew: nobody waits shorter than the rule says. Losses
are forgiven once both many steps and much time have passed without another. While some layer has a single copy nobody
waits: a copy that may go again is better than none.
"""

from collections.abc import Iterable

from holdfast.model.ids import NodeId
from holdfast.model.records import Standing

_WAIT_STEPS_MAX = 64
_WAIT_S = 1.0  # for each step of the wait
_FORGIVEN_STEPS = 100
_FORGIVEN_S = 600.0


class Standings:
    """Mutable; one per coordinator, from the generation it found."""

    def __init__(self, losses_max: int, found: Iterable[Standing], now_s: float) -> None:
        self._losses_max = losses_max
        self._found: dict[NodeId, tuple[Standing, float]] = {each.node: (each, now_s) for each in found}

    def lost(self, node: NodeId, step: int, now_s: float) -> None:
        """One loss more. `step`: the newest one committed."""
        self._forgive(node, step, now_s)
        before = self._found.get(node)
        losses = 1 + (before[0].losses if before is not None else 0)
        wait_steps = min(2 ** (losses - 2), _WAIT_STEPS_MAX) if losses > 1 else 0
        quarantined = losses >= self._losses_max
        self._found[node] = (
            Standing(node=node, losses=losses, step=step, wait_steps=wait_steps, quarantined=quarantined),
            now_s,
        )

    def pardon(self, node: NodeId) -> None:
        self._found.pop(node, None)

    def losses(self, node: NodeId) -> int:
        return self._found[node][0].losses if node in self._found else 0

    def is_barred(self, node: NodeId, step: int, now_s: float, *, is_exposed: bool) -> bool:
        """Whether it has to stay out, if the job can do without it. `is_exposed`: one loss more may end the job."""
        if node not in self._found:
            return False
        standing, since_s = self._found[node]
        if is_exposed:
            return standing.quarantined
        waited = step >= standing.step + standing.wait_steps and now_s >= since_s + standing.wait_steps * _WAIT_S
        return standing.quarantined or not waited

    def waits_until_s(self, node: NodeId) -> float | None:
        """When the time of its wait is over; None for one in quarantine, or free."""
        if node not in self._found or self._found[node][0].quarantined:
            return None
        standing, since_s = self._found[node]
        return since_s + standing.wait_steps * _WAIT_S

    def entries(self, step: int, now_s: float) -> tuple[Standing, ...]:
        """For the generation record, by node; those in quarantine stay until they are pardoned."""
        for node in sorted(self._found):
            self._forgive(node, step, now_s)
        return tuple(self._found[node][0] for node in sorted(self._found))

    def _forgive(self, node: NodeId, step: int, now_s: float) -> None:
        if node not in self._found or self._found[node][0].quarantined:
            return
        standing, since_s = self._found[node]
        if step >= standing.step + _FORGIVEN_STEPS and now_s >= since_s + _FORGIVEN_S:
            del self._found[node]

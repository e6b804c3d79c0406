"""How often the job is struck, by what its coordinators saw, each from where the one before wrote it down."""

from holdfast.model.measured import Struck
from holdfast.planner.hazard import Outlook


class Strikes:
    """Mutable. A strike takes nodes away, announced or not."""

    def __init__(self, written: Struck | None, now_s: float) -> None:
        self._outlook = Outlook.of(written) if written is not None else Outlook()
        self._known_s = now_s

    def struck(self, nodes: int, now_s: float) -> None:
        """So many are lost, or were told to leave."""
        self._outlook, self._known_s = self._outlook.after(now_s - self._known_s, nodes), now_s

    def outlook(self, now_s: float) -> Outlook:
        """Nothing since the last strike is news, too."""
        return self._outlook.after(now_s - self._known_s, 0)

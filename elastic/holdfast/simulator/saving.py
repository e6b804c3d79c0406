"""What a generation does about its worker's snapshots: after each vote, before the next one, and at its end.

The checkers hear from here what a vote showed to be whole, and what is about to be overwritten.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from holdfast.control.snapshotting import Tally
from holdfast.model.records import Commit, Version
from holdfast.simulator.surroundings import Surroundings
from holdfast.simulator.weights import State

if TYPE_CHECKING:
    from holdfast.simulator.worker import Worker

# For so long a worker waits for copies of its snapshot at peers.
_COPIES_S = 2.0


class Saving:
    """Of one generation in one worker."""

    def __init__(self, world: Surroundings, worker: "Worker") -> None:
        self._world, self._worker, self._rules = world, worker, worker.buffers.rules
        self._is_written = False  # what it ends with is on its way to the storage

    def voted(
        self, version: Version, layers: Mapping[int, State], commit: Commit | None, tally: Tally, *, is_last: bool
    ) -> None:
        """Also of the last version, from which nobody goes on, the vote says what is whole by now."""
        rules, begun = self._rules, self._rules.begun
        is_due = rules.is_due(version.step, tally)
        if begun is not None and not tally.uncopied and not tally.failed:
            self._world.kept(self._worker, begun)
        if is_due:
            self._world.overwrites(self._worker, rules.kept)
        if is_due and not is_last:
            self._worker.buffers.begin(version, layers, commit, tally)

    def settle(self) -> bool:
        """Whether a snapshot is whole of which copies are to be waited for."""
        return self._worker.buffers.settle() and bool(self._world.storing.snapshots)

    @property
    def copied_by_s(self) -> float:
        """Then it goes on without them."""
        return self._worker.moved_s + _COPIES_S

    @property
    def is_copied(self) -> bool:
        return self._rules.is_copied or self._world.now_s >= self.copied_by_s

    @property
    def is_uploading(self) -> bool:
        return self._rules.is_uploading

    def write_urgently(self, version: Version, layers: Mapping[int, State]) -> bool:
        """As Snapshots.write_urgently: after the upload before it. Whether that begins now; else it is over, or was
        not waited for."""
        if self._is_written or self.is_uploading:
            return False
        self._is_written = True
        self._worker.buffers.begin_urgently(version, layers)
        return True

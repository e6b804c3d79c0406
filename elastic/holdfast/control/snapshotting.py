"""When all ranks of a generation take a snapshot, and which versions no rank overwrites. One rank's share of it; pure.

Rules (docs/decisions/0006): all ranks decide alike, from what the vote on a step told all of them. Before a worker
votes, its copy of the snapshot begun last is whole. The kept version is never overwritten; the version begun last
becomes the kept one when a vote shows that it is whole everywhere, with its copies at peers.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from holdfast.model.messages import Copied, Snapshotted, Spoilt, Uploaded
from holdfast.model.records import StartRecord, Version

_INTERVAL_MAX = 10_000
# A snapshot that failed, for want of memory perhaps, is tried again ever more rarely.
_BACKOFF_MAX = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Of one rank before a vote."""

    uncopied: bool = False  # peers lack copies of its last snapshot
    blocked: bool = False  # the buffer it would overwrite is being uploaded
    uploading: bool = False
    failed: bool = False  # its last snapshot came to nothing
    cost: float = 0.0  # of its last snapshot, in steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Of all ranks: how many say so, and the highest cost."""

    uncopied: int = 0
    blocked: int = 0
    uploading: int = 0
    failed: int = 0
    cost: float = 0.0

    @staticmethod
    def of(standings: Collection[Standing]) -> "Tally":
        """Added up, as the reduction of a vote does."""
        return Tally(
            uncopied=sum(standing.uncopied for standing in standings),
            blocked=sum(standing.blocked for standing in standings),
            uploading=sum(standing.uploading for standing in standings),
            failed=sum(standing.failed for standing in standings),
            cost=max(standing.cost for standing in standings),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to do. `is_there`: the copy is whole already, and only to be told of again. `kept`: not to be overwritten;
    the agent is told before anything is."""

    version: Version
    kept: Version | None
    for_checkpoint: bool
    is_there: bool = False


class SnapshotRules:
    """One per worker. `heard` may be called by another thread than all else."""

    def __init__(self, *, every: int | None, overhead: float, checkpoint_every: int) -> None:
        """`every`: steps, 0 for never, None for as seldom as `overhead`, the share of the time that they may cost,
        calls for. `checkpoint_every`: steps; 0: there is no storage."""
        self._every, self._overhead, self._checkpoint_every = every, overhead, checkpoint_every
        self._kept: Version | None = None
        self._begun: Version | None = None  # the last one; None: of no use any more
        self._layers: tuple[int, ...] = ()  # that it has, ascending
        self._is_whole = False
        self._generation = 0
        self._copied: Copied | None = None
        self._spoilt: Version | None = None
        self._uploading: Version | None = None
        self._failed = False
        # What follows is alike on all ranks of a generation.
        self._taken_step: int | None = None  # of the last snapshot in this generation
        self._due_step = 0  # none before this one
        self._checkpoint_step = self._checkpoint_before = 0  # of the last one begun, and before it
        self._backoff = 1
        self._is_late = False

    @property
    def is_on(self) -> bool:
        return self._every != 0 or self._checkpoint_every > 0

    @property
    def begun(self) -> Version | None:
        """The last one of this generation, unless it is known to have come to nothing."""
        return self._begun if self._taken_step is not None else None

    @property
    def kept(self) -> Version | None:
        """What is not to be overwritten, as this rank knows."""
        return self._kept

    @property
    def has_storage(self) -> bool:
        return self._checkpoint_every > 0

    @property
    def is_late(self) -> bool:
        """One is due, and the last one's copies are missing."""
        return self._is_late

    @property
    def is_uploading(self) -> bool:
        return self._uploading is not None

    def heard(self, message: Copied | Spoilt | Uploaded) -> None:
        if isinstance(message, Copied):
            self._copied = message
        elif isinstance(message, Spoilt):
            self._spoilt = message.version
        elif self._uploading == message.version:
            self._uploading = None

    def enter(self, start: StartRecord) -> None:
        """A generation begins; what was begun before it counts only if it starts from there."""
        self._kept, self._generation = start.kept, start.generation
        self._checkpoint_step = self._checkpoint_before = start.checkpoint_step
        # Where nobody asked for fixed steps, the first step after a change is not made slower by a copy.
        first = start.version.step + (self._every is None)
        self._taken_step, self._due_step, self._backoff = None, first, 1
        self._failed = False
        if self._begun != start.version:
            self._begun = None

    def done(self) -> None:
        """The copy that was begun is whole."""
        self._is_whole = True

    def came_to_nothing(self) -> None:
        """It was begun, and is not to be had."""
        if self._uploading == self._begun:
            self._uploading = None
        self._begun, self._failed = None, True

    def standing(self, cost: float = 0.0) -> Standing:
        """For the vote on a step; called once a step. `cost`: of the last snapshot, in steps."""
        # What was begun in this generation all have begun; before it, some may not have.
        if self._begun is not None and self._spoilt == self._begun:
            self._begun, self._failed = None, True
        spared = self.begun if self.begun is not None else self._kept
        return Standing(
            uncopied=self.begun is not None and not self.is_copied,
            blocked=self._uploading is not None and self._uploading != spared,
            uploading=self.is_uploading,
            failed=self._failed,
            cost=cost,
        )

    @property
    def is_copied(self) -> bool:
        """Whether peers have what was begun last. Of the generation before, other peers did."""
        if self._begun is None:
            return True
        wanted = Copied(generation=self._generation, version=self._begun, layers=self._layers)
        return self._copied == wanted

    def is_due(self, step: int, tally: Tally) -> bool:
        """Whether to take a snapshot of the state after `step`: alike on all ranks, from what they have in common."""
        if tally.failed:
            self._begun, self._failed, self._taken_step = None, False, None
            self._checkpoint_step = self._checkpoint_before
            self._due_step, self._backoff = step + self._backoff, min(2 * self._backoff, _BACKOFF_MAX)
        elif not tally.uncopied and self._taken_step is not None:
            self._kept, self._backoff = self._begun, 1
        if not self.is_on or tally.blocked or step < self._due_step:
            return False
        if self._owes_checkpoint(step) and not tally.uploading:
            # Whatever became of copies at peers: they get this one. Of two that are without, the one before is kept.
            if tally.uncopied and self._kept is None:
                self._kept = self._begun
            return True
        if self._every == 0:
            return False
        if self._taken_step is not None and step < self._taken_step + self._interval(tally):
            return False
        self._is_late = tally.uncopied > 0
        return not self._is_late

    def begin(self, version: Version, layers: Collection[int], tally: Tally) -> Order | None:
        """Once it is due and `version` of these layers is committed; None: it is there, and known."""
        for_checkpoint = self._owes_checkpoint(version.step) and not tally.uploading
        self._taken_step, self._checkpoint_before = version.step, self._checkpoint_step
        if for_checkpoint:
            self._checkpoint_step = version.step
        if not self._has(version, layers):
            return self._take(version, layers, for_checkpoint=for_checkpoint)
        return self._tell_again() if for_checkpoint else None

    def begin_urgently(self, version: Version, layers: Collection[int]) -> Order:
        """For a checkpoint, where nobody trains any more, and nothing is copied or uploaded. What an upload before this
        one has written is not written again."""
        return self._tell_again() if self._has(version, layers) else self._take(version, layers, for_checkpoint=True)

    def _has(self, version: Version, layers: Collection[int]) -> bool:
        return self._begun == version and self._is_whole and self._layers == tuple(sorted(layers))

    def _take(self, version: Version, layers: Collection[int], *, for_checkpoint: bool) -> Order:
        self._begun, self._layers, self._is_whole = version, tuple(sorted(layers)), False
        if for_checkpoint:
            self._uploading = version
        return Order(version=version, kept=self._kept, for_checkpoint=for_checkpoint)

    def _tell_again(self) -> Order:
        assert self._begun is not None
        self._uploading = self._begun
        return Order(version=self._begun, kept=self._kept, for_checkpoint=True, is_there=True)

    def _owes_checkpoint(self, step: int) -> bool:
        every = self._checkpoint_every
        return every > 0 and step // every > self._checkpoint_step // every

    def _interval(self, tally: Tally) -> int:
        if self._every is not None:
            return self._every
        return max(1, min(_INTERVAL_MAX, math.ceil(tally.cost / self._overhead)))


def copied(
    generation: int, taken: Mapping[int, Snapshotted], is_copied: Callable[[Version, Collection[int]], bool]
) -> Iterator[tuple[int, Copied]]:
    """By slot, what each worker hears whose last snapshot has the copies at peers that are wanted of it.

    `taken`: the last snapshot of each slot. `is_copied`: whether these layers of a version have all of theirs.
    """
    for index, message in sorted(taken.items()):
        layers = tuple(sorted(blob.layer for blob in message.blobs))
        if is_copied(message.version, layers):
            yield index, Copied(generation=generation, version=message.version, layers=layers)

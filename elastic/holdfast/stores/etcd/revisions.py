"""Whole revisions from the parts in which etcd sends them. Pure.

Rule: the last revision of a reply that is marked as a fragment may go on in the next reply and is held back until it is
known to be whole; revisions before `next_revision` are dropped, so nothing is told twice.
"""

from collections.abc import Sequence
from itertools import groupby

from holdfast.ports.store import WatchEvent
from holdfast.stores.polling import Polled


class RevisionAssembler:
    """The events of one stream, in order, since `next_revision`."""

    def __init__(self, next_revision: int) -> None:
        self._next_revision = next_revision
        self._held: tuple[WatchEvent, ...] = ()

    def take(self, events: Sequence[WatchEvent], *, fragment: bool) -> Polled:
        """The revisions that are whole now; `fragment`: the reply goes on in the next one."""
        arrived = (*self._held, *(event for event in events if event.revision >= self._next_revision))
        batches = [tuple(group) for _, group in groupby(arrived, key=lambda event: event.revision)]
        self._held = batches.pop() if fragment and batches else ()
        if batches:
            self._next_revision = batches[-1][0].revision + 1
        return Polled(batches=tuple(batches), next_revision=self._next_revision)

    def skip_to(self, revision: int) -> Polled:
        """etcd says that all events up to `revision` were sent."""
        if not self._held:
            self._next_revision = max(self._next_revision, revision + 1)
        return Polled(batches=(), next_revision=self._next_revision)

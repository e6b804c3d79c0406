"""However etcd cuts the history into replies, whole revisions come out, each once and in order."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from holdfast.ports.store import KeyValue, WatchEvent
from holdfast.stores.etcd.revisions import RevisionAssembler


def put(revision: int, number: int = 0) -> WatchEvent:
    kv = KeyValue(key=f"k{number}", value=b"", create_revision=revision, mod_revision=revision, version=1, lease=0)
    return WatchEvent(kind="put", kv=kv, revision=revision)


def test_a_reply_of_several_revisions_becomes_one_batch_each() -> None:
    polled = RevisionAssembler(3).take([put(3), put(5, 0), put(5, 1)], fragment=False)
    assert polled.batches == ((put(3),), (put(5, 0), put(5, 1)))
    assert polled.next_revision == 6


def test_a_revision_that_goes_on_in_the_next_reply_waits_for_it() -> None:
    assembler = RevisionAssembler(1)
    first = assembler.take([put(2), put(3, 0)], fragment=True)
    assert (first.batches, first.next_revision) == (((put(2),),), 3)
    middle = assembler.take([put(3, 1)], fragment=True)
    assert (middle.batches, middle.next_revision) == ((), 3)
    last = assembler.take([put(3, 2)], fragment=False)
    assert (last.batches, last.next_revision) == (((put(3, 0), put(3, 1), put(3, 2)),), 4)


def test_what_came_before_the_position_is_dropped() -> None:
    assembler = RevisionAssembler(4)
    assert assembler.take([put(2), put(3)], fragment=False).batches == ()
    assert assembler.take([put(3), put(4)], fragment=False).batches == ((put(4),),)


def test_progress_moves_the_position_forward_alone() -> None:
    assembler = RevisionAssembler(10)
    assert assembler.skip_to(4).next_revision == 10
    assert assembler.skip_to(12).next_revision == 13


def test_progress_never_jumps_over_a_revision_that_is_half_here() -> None:
    assembler = RevisionAssembler(1)
    assembler.take([put(2, 0)], fragment=True)
    assert assembler.skip_to(5).next_revision == 1
    assert assembler.take([put(2, 1)], fragment=False).batches == ((put(2, 0), put(2, 1)),)


@given(
    sizes=st.lists(st.integers(1, 4), max_size=12),
    cuts=st.sets(st.integers(1, 40)),
    fragments=st.lists(st.booleans(), min_size=50, max_size=50),
)
def test_any_cut_gives_back_the_history(sizes: list[int], cuts: set[int], fragments: list[bool]) -> None:
    history = [[put(revision, number) for number in range(size)] for revision, size in enumerate(sizes, start=1)]
    events = [event for batch in history for event in batch]
    edges = [0, *sorted(cut for cut in cuts if cut < len(events)), len(events)]
    assembler, out = RevisionAssembler(1), list[tuple[WatchEvent, ...]]()
    for (start, end), fragment in zip(pairwise(edges), fragments, strict=False):
        # etcd marks every part of a reply but the last, and never cuts a revision elsewhere.
        cuts_a_revision = end < len(events) and events[end - 1].revision == events[end].revision
        is_last = end == len(events)
        polled = assembler.take(events[start:end], fragment=not is_last and (fragment or cuts_a_revision))
        out.extend(polled.batches)
    assert out == [tuple(batch) for batch in history]

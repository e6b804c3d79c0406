"""What one rank does about snapshots, by what votes and its agent tell it."""

import itertools
from dataclasses import replace

from holdfast.control.snapshotting import SnapshotRules, Tally
from holdfast.model.messages import Copied, Spoilt, Uploaded
from holdfast.model.records import Action, StartRecord, Version

START = StartRecord(
    generation=3,
    action=Action.TRAIN,
    version=Version(4, 2),
    plan=None,
    transfers=(),
    roll_forward=None,
    redone_steps=0,
    initialise=False,
)
NOBODY = Tally()


def rules(*, every: int | None = 1, checkpoint_every: int = 0, start: StartRecord = START) -> SnapshotRules:
    made = SnapshotRules(every=every, overhead=0.02, checkpoint_every=checkpoint_every)
    made.enter(start)
    return made


def taken(one: SnapshotRules, version: Version, layers: frozenset[int] = frozenset({0, 1})) -> None:
    assert one.is_due(version.step, NOBODY)
    order = one.begin(version, layers, NOBODY)
    assert order is not None
    assert not order.is_there
    one.done()


def test_what_a_vote_shows_to_be_copied_is_kept_and_not_before() -> None:
    one = rules()
    taken(one, START.version)
    assert one.standing().uncopied
    assert one.kept is None

    one.heard(Copied(generation=3, version=START.version, layers=(0, 1)))
    assert not one.standing().uncopied
    assert one.is_due(5, NOBODY)
    assert one.kept == START.version


def test_copies_of_the_same_version_with_other_layers_do_not_count() -> None:
    """They were of the snapshot that a worker of this slot took before the layout changed."""
    one = rules()
    one.heard(Copied(generation=3, version=START.version, layers=(2, 3)))
    taken(one, START.version)

    assert one.standing().uncopied


def test_copies_with_the_peers_of_another_generation_do_not_count() -> None:
    one = rules()
    taken(one, START.version)
    one.heard(Copied(generation=2, version=START.version, layers=(0, 1)))

    assert one.standing().uncopied


def test_a_snapshot_that_failed_anywhere_is_tried_again_ever_more_rarely() -> None:
    one = rules()
    failed = Tally(failed=1)
    tried: list[int] = []
    for step in range(4, 30):
        if one.is_due(step, failed if tried[-1:] == [step - 1] else NOBODY):
            tried.append(step)
            one.begin(Version(step, 3), {0}, NOBODY)
            one.came_to_nothing()
            assert one.standing().failed

    gaps = [later - earlier for earlier, later in itertools.pairwise(tried)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= 8


def test_while_one_is_uploaded_its_buffer_is_not_written_to() -> None:
    one = rules(checkpoint_every=4, start=replace(START, version=Version(7, 2), checkpoint_step=4))
    taken(one, Version(7, 2))
    one.heard(Copied(generation=3, version=Version(7, 2), layers=(0, 1)))
    assert one.is_due(8, NOBODY)
    order = one.begin(Version(8, 3), {0, 1}, NOBODY)
    assert order is not None
    assert order.for_checkpoint
    assert one.is_uploading

    one.done()
    one.heard(Copied(generation=3, version=Version(8, 3), layers=(0, 1)))
    assert not one.standing().blocked  # the next one goes over the version before
    assert one.is_due(9, NOBODY)
    one.begin(Version(9, 3), {0, 1}, NOBODY)
    assert one.standing().blocked
    assert not one.is_due(10, Tally(blocked=1))

    one.heard(Uploaded(version=Version(8, 3)))
    assert not one.standing().blocked


def test_one_that_rotted_counts_as_failed() -> None:
    one = rules()
    taken(one, START.version)
    one.heard(Spoilt(version=START.version))

    assert one.standing().failed


def test_an_urgent_checkpoint_of_what_is_there_is_told_of_again_also_after_an_upload_that_failed() -> None:
    one = rules(checkpoint_every=2, start=replace(START, checkpoint_step=2))
    assert one.is_due(4, NOBODY)
    first = one.begin(START.version, {0, 1}, NOBODY)
    assert first is not None
    assert first.for_checkpoint
    one.done()
    one.heard(Uploaded(version=START.version))

    again = one.begin_urgently(START.version, {0, 1})
    assert again.is_there
    assert one.is_uploading

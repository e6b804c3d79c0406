"""Which copies in RAM are given up."""

from dataclasses import dataclass

from holdfast_checkpoint.sparing import (
    Spare,
    age,
    kind_of,
    newest_whole,
    outlives_arrival,
    outlives_change,
    outlives_overwriting,
    outlives_start,
    said_to_hold,
    spared_at_arrival,
)

OLD, KEPT, NEW = (3, 1), (4, 1), (5, 1)


@dataclass(frozen=True)
class Copy:
    layer: int
    version: tuple[int, int]
    origin: str

    @property
    def kind(self) -> str:
        return kind_of(self.origin)


def test_a_later_generation_is_newer_even_at_an_earlier_step() -> None:
    assert max([(41, 5), (42, 4), (40, 5)], key=age) == (41, 5)


def test_a_worker_that_takes_a_snapshot_gives_up_all_of_its_own_but_the_kept_one() -> None:
    own, others = Copy(0, OLD, "own:1"), Copy(0, OLD, "own:11")
    assert not outlives_overwriting(own, "own:1", KEPT, None)
    assert outlives_overwriting(Copy(0, KEPT, "own:1"), "own:1", KEPT, None)
    assert outlives_overwriting(others, "own:1", KEPT, None)
    assert outlives_overwriting(Copy(0, OLD, "peer:b"), "own:1", KEPT, None)


def test_what_was_fetched_goes_with_the_next_snapshot_but_for_a_job_that_waits() -> None:
    fetched = Copy(0, KEPT, "fetched")
    assert not outlives_overwriting(fetched, "own:0", KEPT, None)
    assert outlives_overwriting(fetched, "own:0", KEPT, KEPT)
    assert outlives_overwriting(Copy(0, OLD, "own:0"), "own:0", KEPT, OLD)


def test_a_start_leaves_what_it_starts_from_what_is_kept_and_what_is_newer_than_itself() -> None:
    assert outlives_start(Copy(0, NEW, "peer:b"), (NEW, KEPT), 2)
    assert outlives_start(Copy(0, KEPT, "peer:b"), (NEW, KEPT), 2)
    assert not outlives_start(Copy(0, OLD, "peer:b"), (NEW, KEPT), 2)
    assert outlives_start(Copy(0, (6, 2), "own:0"), (NEW, KEPT), 2)


def test_what_arrives_takes_the_place_of_all_that_is_not_kept() -> None:
    stay = spared_at_arrival([OLD, KEPT], (KEPT, None), None)
    assert list(stay) == [KEPT]
    assert not outlives_arrival(Copy(2, OLD, "peer:b"), 2, NEW, stay)
    assert outlives_arrival(Copy(2, KEPT, "peer:b"), 2, NEW, stay)
    assert outlives_arrival(Copy(1, OLD, "peer:b"), 2, NEW, stay)
    assert outlives_arrival(Copy(2, OLD, "own:0"), 2, NEW, stay)


def test_where_nobody_knows_what_is_kept_the_newest_stays() -> None:
    assert list(spared_at_arrival([(7, 1), (6, 2)], (None,), None)) == [(6, 2)]
    assert list(spared_at_arrival([], (KEPT,), None)) == []


def test_copies_of_layers_that_others_keep_by_now_go_once_a_newer_version_is_whole() -> None:
    assert outlives_change(Copy(0, KEPT, "peer:b"), {1}, KEPT, None)
    assert not outlives_change(Copy(0, OLD, "peer:b"), {1}, KEPT, None)
    assert outlives_change(Copy(0, OLD, "peer:b"), {1}, KEPT, Spare(version=OLD, generation=2))
    assert outlives_change(Copy(1, OLD, "peer:b"), {1}, KEPT, None)


def test_only_what_is_whole_is_the_newest() -> None:
    versions = {OLD: {0, 1}, KEPT: {0, 1}, NEW: {0}}
    assert newest_whole(versions, {0, 1}) == KEPT
    assert newest_whole(versions, {0}) == NEW
    assert newest_whole(versions, {2}) is None


def test_the_spare_one_stays_beside_the_kept_one_until_its_generation_has_made_a_version() -> None:
    spare = Spare(version=OLD, generation=2)
    assert spare.after(NEW) is spare
    assert list(spared_at_arrival([OLD, (2, 1), KEPT], (KEPT,), spare)) == [OLD, KEPT]
    assert spare.after((6, 2)) is None


def test_a_node_says_what_it_was_told_of_if_that_is_whole_here_else_its_newest() -> None:
    versions = {OLD: {0, 1}, KEPT: {0, 1}, NEW: {0}}
    assert said_to_hold(versions, {0, 1}, OLD) == OLD
    assert said_to_hold(versions, {0, 1}, NEW) == KEPT
    assert said_to_hold(versions, {0, 1}, None) == KEPT
    assert said_to_hold({}, {0}, OLD) is None

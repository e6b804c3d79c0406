"""Retention keeps what it promises, and never takes the last good checkpoint."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_checkpoint.folders import Found, folder_of, parts_of
from holdfast_checkpoint.retention import Retention, expendable, garbage, left_to_others


def found(step: int, *, run: str = "a", generation: int = 1, committed: bool = True, at_s: float | None = 0.0) -> Found:
    folder = folder_of(step, run, generation)
    return Found(folder=folder, step=step, is_committed=committed, modified_s=at_s)


def steps(folders: tuple[str, ...]) -> list[int]:
    return [parts_of(folder)[0] for folder in folders]


FOUND = st.lists(
    st.builds(
        found,
        st.integers(0, 30),
        run=st.sampled_from(["a", "b"]),
        generation=st.integers(0, 2),
        committed=st.booleans(),
        at_s=st.none() | st.floats(0, 100),
    ),
    unique_by=lambda one: one.folder,
    max_size=12,
)
RETENTION = st.builds(Retention, keep_last=st.integers(1, 4), keep_every=st.none() | st.integers(1, 7))


def test_the_last_ones_and_every_kth_step_are_kept() -> None:
    there = [found(step) for step in range(10, 100, 10)]
    assert steps(expendable(there, Retention(keep_last=2, keep_every=30))) == [10, 20, 40, 50, 70]
    assert steps(expendable(there, Retention(keep_last=2))) == [10, 20, 30, 40, 50, 60, 70]


@given(there=FOUND, retention=RETENTION, data=st.data())
def test_the_newest_good_one_and_those_in_use_are_never_taken(
    there: list[Found], retention: Retention, data: st.DataObject
) -> None:
    folders = [one.folder for one in there]
    some = st.sets(st.sampled_from(folders)) if folders else st.just(set())
    in_use, bad, run = data.draw(some), data.draw(some), data.draw(st.sampled_from([None, "a"]))
    gone = set(expendable(there, retention, run=run, in_use=in_use, bad=bad))
    good = [one for one in there if one.is_committed and one.folder not in bad]
    assert gone.isdisjoint(in_use)
    assert gone <= {one.folder for one in there if one.is_committed}
    if good:
        own = [one for one in good if one.run == run]
        newest = max(own or good, key=lambda one: (one.generation if own else 0, one.step, one.generation, one.folder))
        assert newest.folder not in gone
        left = [one for one in good if one.folder not in gone]
        assert len(left) >= min(retention.keep_last, len(good))
    else:
        assert not gone


def test_a_corrupt_one_does_not_count_as_kept() -> None:
    there = [found(10), found(20), found(30)]
    bad = {folder_of(30, "a", 1)}
    assert steps(expendable(there, Retention(keep_last=1), bad=bad)) == [10]
    assert expendable(there, Retention(keep_last=1), bad={one.folder for one in there}) == ()


def test_a_run_resumed_from_an_earlier_step_keeps_its_own() -> None:
    there = [found(40), found(60), found(80), found(50, run="b")]
    assert steps(expendable(there, Retention(keep_last=1), run="b")) == [40, 60, 80]


def test_a_run_that_went_back_keeps_what_it_wrote_since() -> None:
    there = [found(100), found(113, generation=3), found(106, generation=5)]
    assert steps(expendable(there, Retention(keep_last=1), run="a")) == [100, 113]


def test_to_other_runs_is_left_the_newest_of_each_and_all_of_one_that_wrote_lately() -> None:
    dead = [found(10), found(20), found(15, generation=2)]
    living = [found(30, run="c"), found(40, run="c", at_s=90.0)]
    left = left_to_others([*dead, *living, found(50, run="b")], Retention(garbage_age_s=50.0), now_s=100.0, run="b")
    assert left == {dead[2].folder, *(one.folder for one in living)}


def test_unfinished_ones_are_garbage_once_older_than_a_committed_one_and_left_alone_for_long() -> None:
    there = [
        found(10, committed=False, at_s=0.0),
        found(15, committed=False, at_s=95.0),
        found(16, committed=False, at_s=None),
        found(17, committed=False, at_s=0.0),
        found(20),
        found(30, committed=False, at_s=0.0),
    ]
    retention = Retention(garbage_age_s=50.0)
    in_use = {folder_of(17, "a", 1)}
    assert steps(garbage(there, retention, now_s=100.0, in_use=in_use)) == [10]
    assert garbage(there, retention, now_s=-1000.0) == ()  # the storage's clock is ahead of ours


@given(there=FOUND, now_s=st.floats(0, 1000))
def test_nothing_committed_is_ever_garbage(there: list[Found], now_s: float) -> None:
    gone = garbage(there, Retention(garbage_age_s=0.0), now_s=now_s)
    assert not set(gone) & {one.folder for one in there if one.is_committed}


@pytest.mark.parametrize("wrong", [{"keep_last": 0}, {"keep_every": 0}, {"garbage_age_s": -1.0}])
def test_settings_that_keep_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Retention(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "folder", ["", "0000000040", "40-a-1", "0000000040-a", "0000000040-a-1/..", "../0000000040-a-1"]
)
def test_what_names_no_checkpoint_is_refused(folder: str) -> None:
    with pytest.raises(ValueError, match="does not name a checkpoint"):
        parts_of(folder)


@pytest.mark.parametrize(("step", "run", "generation"), [(-1, "a", 1), (1, "", 1), (1, "a/b", 1), (1, "a", -1)])
def test_no_folder_is_made_that_could_not_be_read_back(step: int, run: str, generation: int) -> None:
    with pytest.raises(ValueError, match="no folder is named"):
        folder_of(step, run, generation)


def test_a_folder_tells_its_step_run_and_generation() -> None:
    assert folder_of(40, "3f2a9c1b", 3) == "0000000040-3f2a9c1b-3"
    assert parts_of(folder_of(12_345_678_901, "a-b.c", 0)) == (12_345_678_901, "a-b.c", 0)

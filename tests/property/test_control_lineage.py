"""The shortened lineage says of every version what the whole list of starts says."""

from hypothesis import given
from hypothesis import strategies as st

from holdfast.control.recovery import Lineage, extend_lineage, is_history
from holdfast.model.records import Version


@given(starts=st.lists(st.integers(0, 12), max_size=12), step=st.integers(0, 14), generation=st.integers(0, 13))
def test_a_shortened_lineage_forgets_nothing_that_matters(starts: list[int], step: int, generation: int) -> None:
    lineage: Lineage = ()
    for number, start in enumerate(starts, 1):
        lineage = extend_lineage(lineage, number, start)
    version = Version(step, generation)

    later = [start for number, start in enumerate(starts, 1) if number > generation]
    assert is_history(version, lineage) == all(start >= step for start in later)

"""How the batch is shared out."""

from holdfast.model.plan import Span
from holdfast.planner.shares import Pace, makespan, share, subtrees


def pace(depth: int, bottleneck: int) -> Pace:
    """With stages that are all as slow as the slowest."""
    return Pace(depth, bottleneck, depth * bottleneck)


def sizes(spans: tuple[Span, ...]) -> list[int]:
    return [len(span) for span in spans]


def test_equal_pipelines_share_evenly() -> None:
    assert sizes(share([pace(2, 5)] * 4, blocks=8, block_size=1)) == [2, 2, 2, 2]


def test_a_faster_pipeline_takes_more() -> None:
    assert sizes(share([pace(1, 1), pace(1, 3)], blocks=8, block_size=1)) == [6, 2]


def test_every_pipeline_gets_as_many_microbatches_as_it_has_stages() -> None:
    assert sizes(share([pace(1, 1), pace(3, 100)], blocks=8, block_size=2)) == [6, 2]


def test_too_few_blocks_for_the_depths_have_no_makespan() -> None:
    assert makespan({pace(3, 1): 1, pace(2, 1): 1}, blocks=4, block_size=1) is None


def test_among_equally_fast_shares_whole_subtrees_win() -> None:
    # 4 + 3 + 1 takes as long, but [4, 7) is no subtree and would be sent as two partial sums.
    assert sizes(share([pace(1, 1), pace(1, 1), pace(1, 2)], blocks=8, block_size=1)) == [4, 2, 2]


def test_subtrees_of_whole_halves_are_one() -> None:
    assert subtrees(0, 8, 8) == subtrees(4, 8, 8) == subtrees(4, 6, 6) == 1
    assert subtrees(1, 8, 8) == 3

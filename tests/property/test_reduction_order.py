"""The order of reductions: a whole one, the same for all, and no chain through the model."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from holdfast.model.ids import NodeId, SlotId
from holdfast.model.plan import Pipeline, Plan, Segment, Span, Stage

LAYERS = 24


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Pipelines of any depths and cuts, a block each."""
    pipelines = []
    for number in range(draw(st.integers(1, 5))):
        inside = draw(st.sets(st.integers(1, LAYERS - 1), max_size=LAYERS - 1))
        cuts = [0, *sorted(inside), LAYERS]
        stages = tuple(
            Stage(SlotId(NodeId(f"n{number}-{at}"), 0), Span(start, stop))
            for at, (start, stop) in enumerate(pairwise(cuts))
        )
        pipelines.append(Pipeline(stages, Span(number, number + 1)))
    return Plan(tuple(pipelines))


def longest_chain(plan: Plan, order: tuple[Segment, ...]) -> int:
    """Reductions that wait for each other one by one, if each takes a while."""
    done: dict[int, int] = {}
    for segment in order:
        over = max(done.get(rank, 0) for rank in segment.ranks) + 1
        done.update(dict.fromkeys(segment.ranks, over))
    return max(done.values())


@given(plans())
def test_every_segment_is_reduced_once_and_no_chain_is_longer_than_what_ranks_share(plan: Plan) -> None:
    order = plan.reduction_order
    most = max(sum(rank in segment.ranks for segment in order) for rank in range(len(plan.slots)))
    # A segment waits at most for those of its own ranks, one in each round.
    shared = max(sum(bool(set(one.ranks) & set(other.ranks)) for other in order) for one in order)

    assert sorted(order, key=lambda segment: segment.layers) == list(plan.segments)
    assert most <= longest_chain(plan, order) <= shared
    assert plan.reduction_order == Plan(plan.pipelines).reduction_order


def test_two_pipelines_of_different_depth_take_turns_and_no_chain() -> None:
    def pipeline(number: int, depth: int) -> Pipeline:
        cuts = [LAYERS * at // depth for at in range(depth + 1)]
        return Pipeline(
            tuple(Stage(SlotId(NodeId(f"{number}-{a}"), 0), Span(a, b)) for a, b in pairwise(cuts)),
            Span(number, number + 1),
        )

    plan = Plan((pipeline(0, 8), pipeline(1, 7)))

    assert longest_chain(plan, plan.segments) == 10
    assert longest_chain(plan, plan.reduction_order) <= 3

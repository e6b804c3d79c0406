"""The fast simulation of a step against the one that follows every message, and what must hold of both."""

from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.model.ids import NodeId, SlotId
from holdfast.model.plan import Pipeline, Plan, Span, Stage
from holdfast.planner.crowding import Work
from holdfast.planner.profile import LayerProfile, Link, Profile
from holdfast.planner.timeline import estimate, spans

_SECONDS = st.integers(0, 40).map(lambda tenths: tenths / 10)
_LINKS = st.builds(Link, bytes_per_s=st.sampled_from([1.0, 10.0, 1e6]), latency_s=st.sampled_from([0.0, 0.25, 1.0]))


@st.composite
def profiles(draw: st.DrawFn, layers: int) -> Profile:
    return Profile(
        fingerprint="drawn",
        layers=tuple(
            LayerProfile(
                name=f"layer-{number}",
                forward_s=draw(_SECONDS),
                backward_s=draw(_SECONDS),
                param_bytes=draw(st.integers(0, 20)),
                state_bytes=60,
                activation_bytes=5,
                output_bytes=draw(st.integers(0, 4)),
                update_s=draw(_SECONDS),
            )
            for number in range(layers)
        ),
        between_nodes=draw(_LINKS),
        within_node=draw(_LINKS),
        fixed_s=draw(_SECONDS),
        load_s=draw(_SECONDS),
        stage_s=draw(_SECONDS),
        speeds={SlotId(NodeId("node-0"), 0): draw(st.sampled_from([0.5, 1.0, 2.0]))},
    )


@st.composite
def plans(draw: st.DrawFn) -> tuple[Plan, int, Profile]:
    """With a block size, and a profile of its layers."""
    layers = draw(st.integers(1, 6))
    block_size = draw(st.integers(1, 3))
    slots = iter(SlotId(NodeId(f"node-{n // 2}"), n % 2) for n in range(100))
    pipelines: list[Pipeline] = []
    blocks = 0
    for _ in range(draw(st.integers(1, 3))):
        depth = draw(st.integers(1, min(4, layers)))
        inner = st.sets(st.sampled_from(range(1, layers)), min_size=depth - 1, max_size=depth - 1)
        bounds = [0, *sorted(draw(inner) if depth > 1 else []), layers]
        mine = -(-depth // block_size) + draw(st.integers(0, 4))
        stages = tuple(Stage(next(slots), Span(start, stop)) for start, stop in pairwise(bounds))
        pipelines.append(Pipeline(stages, Span(blocks, blocks + mine)))
        blocks += mine
    return Plan(tuple(pipelines)), block_size, draw(profiles(layers))


@given(plans(), st.booleans())
def test_the_fast_simulation_tells_what_following_every_message_tells(
    case: tuple[Plan, int, Profile], canonical: bool
) -> None:
    plan, block_size, profile = case
    fast = estimate(plan, profile, block_size, canonical=canonical)
    slow = estimate(plan, profile, block_size, canonical=canonical, cores=len(plan.slots))
    assert fast.seconds == pytest.approx(slow.seconds)
    assert fast.pipeline_s == pytest.approx(slow.pipeline_s)
    assert fast.bubble == pytest.approx(slow.bubble, abs=1e-9)
    assert fast.reduce_s == pytest.approx(slow.reduce_s, abs=1e-9)
    assert fast.update_s == pytest.approx(slow.update_s, abs=1e-9)


@given(plans(), st.booleans())
def test_every_microbatch_goes_forward_then_backward_on_every_stage_and_no_slot_does_two_things_at_once(
    case: tuple[Plan, int, Profile], canonical: bool
) -> None:
    plan, block_size, profile = case
    told = estimate(plan, profile, block_size, canonical=canonical)
    by_rank = spans(plan, profile, block_size, canonical=canonical)
    for rank, busy in enumerate(by_rank):
        assert all(one.end_s <= other.start_s + 1e-9 for one, other in pairwise(busy))
        assert all(0 <= span.start_s <= span.end_s <= told.seconds + 1e-6 for span in busy)
        pipeline, stage = plan.locate(rank)
        blocks = plan.pipelines[pipeline].blocks
        wanted = list(range(blocks.start * block_size, blocks.stop * block_size))
        forwards = [span.microbatch for span in busy if span.work is Work.FORWARD]
        backwards = [span.microbatch for span in busy if span.work is Work.BACKWARD]
        assert forwards == backwards == wanted
        # 1F1B: never more microbatches in flight than stages from here to the end.
        order = [span.work for span in busy if span.work in (Work.FORWARD, Work.BACKWARD)]
        in_flight = max(accumulate(1 if work is Work.FORWARD else -1 for work in order))
        assert in_flight <= plan.pipelines[pipeline].depth - stage


@given(plans(), st.integers(1, 4))
def test_fewer_cores_never_make_a_step_shorter_than_its_work_allows(
    case: tuple[Plan, int, Profile], cores: int
) -> None:
    plan, block_size, profile = case
    told = estimate(plan, profile, block_size, cores=cores)
    alone = spans(plan, profile, block_size)
    work_s = sum(span.end_s - span.start_s for busy in alone for span in busy)
    assert told.seconds >= work_s / cores - 1e-6
    assert 0 <= told.bubble <= 1

"""What a step takes, in cases that can be worked out by hand."""

from dataclasses import replace

import pytest

from holdfast.model.ids import NodeId, SlotId
from holdfast.model.plan import Pipeline, Plan, Span, Stage
from holdfast.planner.crowding import Work
from holdfast.planner.profile import LayerProfile, Link, Profile
from holdfast.planner.reduction import canonical_traffic, ring_traffic
from holdfast.planner.timeline import estimate, spans

FREE = Link(bytes_per_s=1e30)


def layer(name: str, *, forward_s: float = 1.0, backward_s: float = 2.0, param_bytes: int = 0) -> LayerProfile:
    return LayerProfile(
        name=name,
        forward_s=forward_s,
        backward_s=backward_s,
        param_bytes=param_bytes,
        state_bytes=3 * param_bytes,
        activation_bytes=0,
        output_bytes=100,
    )


def profile(*layers: LayerProfile, link: Link = FREE) -> Profile:
    return Profile(fingerprint="by hand", layers=layers, between_nodes=link, within_node=link)


def slot(node: int, index: int = 0) -> SlotId:
    return SlotId(NodeId(f"node-{node}"), index)


def even(pipelines: int, depth: int, layers: int, blocks: int) -> Plan:
    """Every pipeline with as many blocks, every stage with as many layers, every slot on a node of its own."""
    per = layers // depth
    return Plan(
        tuple(
            Pipeline(
                tuple(Stage(slot(p * depth + s), Span(s * per, (s + 1) * per)) for s in range(depth)),
                Span(p * blocks, (p + 1) * blocks),
            )
            for p in range(pipelines)
        )
    )


@pytest.mark.parametrize(("depth", "microbatches"), [(1, 1), (1, 5), (2, 2), (2, 7), (4, 4), (4, 9)])
def test_even_stages_take_a_microbatch_each_and_fill_and_drain_once(depth: int, microbatches: int) -> None:
    told = estimate(even(1, depth, depth, microbatches), profile(*map(layer, "abcd"[:depth])), 1)

    assert told.seconds == pytest.approx(3 * (microbatches + depth - 1))
    assert told.bubble == pytest.approx((depth - 1) / (microbatches + depth - 1))


def test_a_slot_of_half_the_speed_takes_twice_as_long() -> None:
    slow = replace(profile(layer("a"), layer("b")), speeds={slot(0): 0.5})

    assert estimate(even(1, 1, 2, 4), slow, 1).seconds == pytest.approx(2 * 4 * 6)


def test_what_crosses_a_boundary_is_waited_for_on_both_sides() -> None:
    """Of two stages and two microbatches, and never while the receiver computes."""
    link = Link(bytes_per_s=1e30, latency_s=0.5)

    # forward, cross, forward and backward, cross (both ways at once), in turn; the last gradient alone.
    assert estimate(even(1, 2, 2, 2), profile(layer("a"), layer("b"), link=link), 1).seconds == pytest.approx(
        1 + 0.5 + 1 + 2 + 0.5 + 3 + 0.5 + 2
    )


def test_two_replicas_in_different_slots_wait_for_the_slower_one_before_they_reduce() -> None:
    plan = Plan(
        (Pipeline((Stage(slot(0), Span(0, 1)),), Span(0, 3)), Pipeline((Stage(slot(1), Span(0, 1)),), Span(3, 4)))
    )
    link = Link(bytes_per_s=100.0)
    told = estimate(plan, profile(layer("a", param_bytes=300), link=link), 1)

    assert told.pipeline_s == pytest.approx((9, 3))
    # Blocks 0 to 2 are two subtrees, 3 is one: the first rank sends two halves and gets one, then halves go back.
    assert told.reduce_s == pytest.approx((2 * 150 + 150) / 100)
    assert estimate(
        plan, profile(layer("a", param_bytes=300), link=link), 1, canonical=False
    ).reduce_s == pytest.approx(3)


def test_with_one_subtree_a_pipeline_canonical_sends_as_much_as_a_ring() -> None:
    for ranks in (2, 3, 8):
        assert canonical_traffic(10**6, [1] * ranks).size_bytes == pytest.approx(ring_traffic(10**6, ranks).size_bytes)


def test_the_slots_of_a_node_share_what_joins_it_to_the_others() -> None:
    def plan(nodes: tuple[int, int]) -> Plan:
        first = tuple(Stage(slot(nodes[0] * stage, stage), Span(stage, stage + 1)) for stage in range(2))
        second = tuple(Stage(slot(2 + nodes[1] * stage, stage), Span(stage, stage + 1)) for stage in range(2))
        return Plan((Pipeline(first, Span(0, 2)), Pipeline(second, Span(2, 4))))

    costs = profile(*(layer(name, param_bytes=1000) for name in "ab"), link=Link(bytes_per_s=1000.0))
    costs = replace(costs, layers=tuple(replace(each, output_bytes=0) for each in costs.layers))

    apart, together = (estimate(plan(nodes), costs, 1) for nodes in ((1, 1), (0, 0)))
    assert together.pipeline_s == pytest.approx(apart.pipeline_s)
    assert together.seconds - max(together.pipeline_s) > apart.seconds - max(apart.pipeline_s)


def test_slots_that_share_one_core_take_the_sum_of_their_work() -> None:
    plan, costs = even(1, 4, 4, 4), profile(*map(layer, "abcd"))

    assert estimate(plan, costs, 1, cores=1).seconds == pytest.approx(4 * 4 * 3)
    assert estimate(plan, costs, 1, cores=4).seconds == pytest.approx(estimate(plan, costs, 1).seconds)


def test_cores_that_are_all_busy_are_slower() -> None:
    plan, costs = even(2, 1, 1, 4), replace(profile(layer("a")), crowded_speed=0.8)

    assert estimate(plan, costs, 1, cores=2).seconds == pytest.approx(12 / 0.8)
    assert estimate(plan, costs, 1).seconds == pytest.approx(12)


def test_spans_name_slot_work_and_global_microbatch() -> None:
    (only,) = spans(even(1, 1, 1, 2), replace(profile(layer("a")), load_s=0.5, fixed_s=0.25), 1)

    assert [(busy.work, busy.microbatch, busy.start_s, busy.end_s) for busy in only] == [
        (Work.LOAD, None, 0.0, 1.0),
        (Work.FORWARD, 0, 1.0, 2.0),
        (Work.BACKWARD, 0, 2.0, 4.0),
        (Work.FORWARD, 1, 4.0, 5.0),
        (Work.BACKWARD, 1, 5.0, 7.0),
        (Work.REDUCE, None, 7.0, 7.0),
        (Work.REST, None, 7.0, 7.25),
        (Work.UPDATE, None, 7.25, 7.25),
    ]


def test_a_plan_that_1f1b_cannot_run_and_one_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match="2 microbatches for 3 stages"):
        estimate(even(1, 3, 3, 2), profile(*map(layer, "abc")), 1)
    with pytest.raises(ValueError, match="the plan has 2 layers, the profile 1"):
        estimate(even(1, 1, 2, 2), profile(layer("a")), 1)

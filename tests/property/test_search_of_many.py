"""Many slots: how far a layout is from the best there can be, and its predicted step from the simulated one.

Such gaps have no sharp bound, and whoever looks for the worst case finds a worse one: the cases are drawn once for all.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import NoPlanError
from holdfast.model.ids import NodeId, SlotId
from holdfast.planner import candidates
from holdfast.planner.bounds import lower_bound
from holdfast.planner.profile import LayerProfile, Link, Profile
from holdfast.planner.request import Request
from holdfast.planner.requesting import request_of
from holdfast.planner.search import plan
from holdfast.planner.timeline import estimate

# On average, and of each; docs/planning.md.
GAP_MEAN, GAP_MOST = 0.05, 0.2
SIMULATED_GAP_MEAN, SIMULATED_GAP_MOST = 0.05, 0.25
COSTS = st.sampled_from([0.5, 1.0, 1.0, 1.0, 2.0])


def slots_of(count: int, a_node: int = 1) -> tuple[SlotId, ...]:
    return tuple(SlotId(NodeId(f"n{number // a_node:03}"), number % a_node) for number in range(count))


@st.composite
def requests(draw: st.DrawFn, *, slots_least: int, slots_most: int, layers_most: int, speeds: int) -> Request:
    layers, count = draw(st.integers(4, layers_most)), draw(st.integers(slots_least, slots_most))
    slots = slots_of(count)
    kinds = draw(st.lists(st.sampled_from([1.0, 0.9, 0.7, 0.5]), min_size=speeds, max_size=speeds))
    # Four layers or a half of the model fit, or all of it.
    memory = draw(st.none() | st.sampled_from([max(600, 60 * layers), 120 * layers]))
    return Request(
        slots=slots,
        layer_costs=tuple(draw(st.lists(COSTS, min_size=layers, max_size=layers))),
        layer_bytes=(100,) * layers,
        blocks=count * draw(st.integers(1, 4)),
        block_size=draw(st.sampled_from([1, 2, 4])),
        memory_per_slot_bytes=memory,
        activation_bytes=draw(st.sampled_from([(), (3,) * layers])),
        boundary_costs=draw(st.sampled_from([(), (0.1,) * layers])),
        speeds={slot: kinds[number % speeds] for number, slot in enumerate(slots)} if speeds else {},
    )


def test_layouts_of_many_equal_slots_come_close_to_what_no_layout_beats() -> None:
    gaps = []

    @settings(max_examples=150, derandomize=True)
    @given(requests(slots_least=9, slots_most=64, layers_most=48, speeds=0))
    def compare(request: Request) -> None:
        decision = plan(request)
        gaps.append(decision.step_cost / lower_bound(request, min(decision.copies, request.copies)) - 1)

    compare()

    assert len(gaps) > 100
    assert min(gaps) > -1e-9
    assert sum(gaps) / len(gaps) < GAP_MEAN
    assert max(gaps) < GAP_MOST


@settings(max_examples=150)
@given(requests(slots_least=1, slots_most=8, layers_most=12, speeds=2))
def test_no_layout_of_few_slots_beats_the_lower_bound(request: Request) -> None:
    try:
        decision = plan(request)
    except NoPlanError:
        return

    assert lower_bound(request, min(decision.copies, request.copies)) <= decision.step_cost * (1 + 1e-9)


def test_what_serves_many_slots_is_close_to_exact_where_that_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of slots of two kinds, over many cases: the mean, and each."""
    gaps = []

    @settings(max_examples=150, derandomize=True)
    @given(requests(slots_least=4, slots_most=8, layers_most=12, speeds=2))
    def compare(request: Request) -> None:
        try:
            exact = plan(request)
        except NoPlanError:
            return
        with monkeypatch.context() as few:
            few.setattr(candidates, "EXACT_SLOTS_MAX", 0)
            good = plan(request)
        if good.copies == exact.copies:
            gaps.append(good.step_cost / exact.step_cost - 1)

    compare()

    assert len(gaps) > 100
    assert min(gaps) > -1e-9
    assert sum(gaps) / len(gaps) < 0.05
    assert max(gaps) < 0.5


@st.composite
def profiles(draw: st.DrawFn, slots: tuple[SlotId, ...]) -> Profile:
    times = draw(st.lists(st.floats(0.005, 0.02), min_size=4, max_size=24))
    link = draw(st.sampled_from([Link(bytes_per_s=1e15), Link(bytes_per_s=1e9, latency_s=1e-4)]))
    return Profile(
        fingerprint="drawn",
        layers=tuple(
            LayerProfile(
                name=f"layer-{number}",
                forward_s=seconds,
                backward_s=2 * seconds,
                param_bytes=10_000_000,
                state_bytes=30_000_000,
                activation_bytes=1000,
                output_bytes=2_000_000,
            )
            for number, seconds in enumerate(times)
        ),
        between_nodes=link,
        within_node=link,
        speeds={slot: draw(st.sampled_from([1.0, 1.0, 0.5])) for slot in slots},
        load_s=draw(st.sampled_from([0.0, 0.001])),
        stage_s=draw(st.sampled_from([0.0, 0.002])),
    )


def test_the_step_that_is_searched_by_is_close_to_the_step_that_is_simulated() -> None:
    gaps = []

    @settings(max_examples=150, derandomize=True)
    @given(st.integers(1, 12), st.integers(1, 4), st.sampled_from([1, 2, 4]), st.data())
    def compare(count: int, rounds: int, block_size: int, data: st.DataObject) -> None:
        profile = data.draw(profiles(slots_of(count)))
        depth = data.draw(st.none() | st.integers(1, 4))
        request = request_of(profile, slots=slots_of(count), blocks=count * rounds, block_size=block_size, depth=depth)
        decision = plan(request)
        gaps.append(decision.step_cost / estimate(decision.plan, profile, block_size).seconds - 1)

    compare()

    assert len(gaps) > 100
    assert sum(map(abs, gaps)) / len(gaps) < SIMULATED_GAP_MEAN
    assert max(map(abs, gaps)) < SIMULATED_GAP_MOST

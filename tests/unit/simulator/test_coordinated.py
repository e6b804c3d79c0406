"""Replays with the real coordinator: time and bytes go where they should, and it does what the policy foretells."""

from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.control.job import Job
from holdfast.model.ids import NodeId
from holdfast.planner.profile import LayerProfile, Link, Profile
from holdfast.simulator.replay.coordinated import replay
from holdfast.simulator.replay.costs import MeasuredCosts
from holdfast.simulator.replay.formats import load_trace
from holdfast.simulator.replay.generating import Pattern, generate
from holdfast.simulator.replay.holdfast import Holdfast
from holdfast.simulator.replay.model import Model
from holdfast.simulator.replay.replaying import Outcome
from holdfast.simulator.replay.replaying import replay as replay_policy
from holdfast.simulator.replay.runtime import Runtime, of_program, of_table
from holdfast.simulator.replay.table import load_table
from holdfast.simulator.replay.trace import Change, Trace
from holdfast.spec import JobSpec

TRACES = Path(__file__).resolve().parents[3] / "benchmarks" / "traces"
LAYERS, LAYER_BYTES, BATCH = 8, 1_000_000, 8
COSTS = MeasuredCosts(loss_s=0.6, drain_s=0.2, join_s=0.4, link_bytes_per_s=1e9, checkpoint_steps=10, start_up_s=5.0)


def runtime(*, memory: int | None = None, copies: int = 1, has_snapshots: bool = True) -> Runtime:
    """Eight equal layers; a step of one node takes 8 s."""
    names = tuple(f"layer-{number}" for number in range(LAYERS))
    layers = tuple(
        LayerProfile(
            name=name,
            forward_s=0.04,
            backward_s=0.085,
            param_bytes=LAYER_BYTES // 3,
            state_bytes=LAYER_BYTES,
            activation_bytes=0,
            output_bytes=0,
        )
        for name in names
    )
    link = Link(bytes_per_s=1e9)
    profile = Profile(fingerprint="test", layers=layers, between_nodes=link, within_node=link)
    job = Job(
        steps=1,
        nodes_min=1,
        nodes_max=None,
        nodes_desired=1,
        layer_names=names,
        layer_bytes=(LAYER_BYTES,) * LAYERS,
        blocks=BATCH,
        block_size=1,
        depth=None,
        memory_per_slot_bytes=memory,
        profile=profile,
        start_s=60.0,
        join_settle_s=0.2,
        start_settle_s=5.0,
        abort_s=5.0,
        probe_s=0.5,
        worker_deaths_per_step=3,
        has_snapshots=has_snapshots,
        copies=copies,
        is_canonical=False,
    )
    return of_program(job, BATCH)


def names(*numbers: int) -> tuple[NodeId, ...]:
    return tuple(NodeId(f"n{number}") for number in numbers)


def trace(*changes: Change, duration_s: float = 1000.0) -> Trace:
    return Trace(name="made up", changes=changes, duration_s=duration_s)


def starts(*numbers: int) -> Change:
    return Change(at_s=0.0, joined=names(*numbers))


def adds_up(outcome: Outcome) -> None:
    assert outcome.samples + sum(outcome.lost_samples.values()) == pytest.approx(outcome.ideal_samples)
    assert outcome.totals[-1] == outcome.samples
    assert outcome.times_s[-1] == pytest.approx(outcome.seconds)
    assert list(outcome.times_s) == sorted(outcome.times_s)
    assert all(seconds >= 0 for seconds in outcome.stalled_s.values())


def lost_s(outcome: Outcome, *causes: str) -> float:
    return sum(outcome.stalled_s.get(cause, 0.0) for cause in causes)


def test_a_quiet_trace_loses_its_start_and_the_step_that_does_not_end() -> None:
    outcome = replay(trace(starts(0, 1, 2, 3)), runtime(), COSTS)

    adds_up(outcome)
    assert outcome.generations == 1
    step_s = BATCH / runtime().layouts.best(4).rate
    assert lost_s(outcome, "start") == pytest.approx(COSTS.start_up_s + COSTS.join_s, abs=0.1)
    assert 0 <= lost_s(outcome, "unfinished step") <= step_s
    assert outcome.goodput > 0.98


def test_a_loss_takes_what_it_takes_and_the_step_in_flight() -> None:
    outcome = replay(trace(starts(0, 1, 2, 3), Change(at_s=500.0, left=names(1))), runtime(), COSTS)

    adds_up(outcome)
    assert outcome.generations == 2
    step_s = BATCH / runtime().layouts.best(4).rate
    assert COSTS.loss_s <= lost_s(outcome, "loss") <= COSTS.loss_s + step_s + 0.1
    assert outcome.remote_bytes == 0
    assert lost_s(outcome, "redone") == 0


def test_layers_of_a_lost_node_that_had_the_only_ones_come_from_ram() -> None:
    """Memory for half of the model a slot: two stages, and every layer once."""
    tight = runtime(memory=6 * LAYER_BYTES)
    outcome = replay(trace(starts(0, 1, 2), Change(at_s=500.0, left=names(0))), tight, COSTS)

    adds_up(outcome)
    assert outcome.remote_bytes == 0
    step_s = BATCH / tight.layouts.best(3).rate
    assert 0 < lost_s(outcome, "redone") <= 2 * step_s


def test_what_no_memory_holds_comes_from_the_last_checkpoint() -> None:
    tight = runtime(memory=6 * LAYER_BYTES, has_snapshots=False)
    outcome = replay(trace(starts(0, 1, 2), Change(at_s=500.0, left=names(0))), tight, COSTS)

    adds_up(outcome)
    assert outcome.remote_bytes > 0
    step_s = BATCH / tight.layouts.best(2).rate
    assert step_s < lost_s(outcome, "redone") <= COSTS.checkpoint_steps * step_s


def test_a_node_with_notice_is_drained_and_costs_less_than_a_loss() -> None:
    gone = trace(starts(0, 1, 2, 3), Change(at_s=500.0, left=names(1)))
    outcome = replay(gone.noticed(30.0), runtime(), COSTS)

    adds_up(outcome)
    assert lost_s(outcome, "drain") == pytest.approx(COSTS.drain_s, abs=0.05)
    assert lost_s(outcome, "loss") == 0


def test_a_name_that_was_drained_may_come_back() -> None:
    changes = (starts(0, 1, 2, 3), Change(at_s=200.0, left=names(1)), Change(at_s=400.0, joined=names(1)))
    outcome = replay(trace(*changes).noticed(30.0), runtime(), COSTS)

    adds_up(outcome)
    assert outcome.happenings[-1].used == 4


def test_a_notice_that_comes_before_a_node_is_warm_is_not_forgotten() -> None:
    changes = (starts(0, 1, 2), Change(at_s=200.0, joined=names(3)), Change(at_s=320.0, left=names(3)))
    outcome = replay(trace(*changes).noticed(119.0), runtime(), COSTS)

    adds_up(outcome)
    assert lost_s(outcome, "loss") == 0


def test_steps_that_were_gone_back_from_and_never_done_again_do_not_count() -> None:
    tight = runtime(memory=6 * LAYER_BYTES, has_snapshots=False)
    costs = replace(COSTS, checkpoint_steps=100)
    lost = replay(trace(starts(0, 1, 2), Change(at_s=995.0, left=names(0))), tight, costs)
    whole = replay(trace(starts(0, 1, 2)), tight, costs)

    adds_up(lost)
    assert lost.samples <= whole.samples - BATCH
    assert lost.samples % (100 * BATCH) == pytest.approx(0, abs=1e-6)


def test_newcomers_of_one_moment_are_one_generation() -> None:
    outcome = replay(trace(starts(0, 1), Change(at_s=300.0, joined=names(2, 3))), runtime(), COSTS)

    adds_up(outcome)
    assert outcome.generations == 2
    assert outcome.happenings[-1].used == 4
    assert lost_s(outcome, "join") == pytest.approx(COSTS.join_s + LAYERS * LAYER_BYTES / 1e9, abs=0.1)


def test_with_nobody_left_it_waits_for_whoever_comes() -> None:
    changes = (starts(0, 1), Change(at_s=200.0, left=names(0, 1)), Change(at_s=400.0, joined=names(2, 3)))
    outcome = replay(trace(*changes), runtime(), COSTS)

    adds_up(outcome)
    assert outcome.samples > replay(trace(*changes[:2]), runtime(), COSTS).samples


@pytest.mark.parametrize("seed", range(3))
def test_on_made_up_markets_it_does_what_the_policy_foretells(seed: int) -> None:
    market = generate(Pattern(nodes=8, hours=2, loss_per_h=1.0, bursts_per_h=1.0, grid_s=60.0), seed)
    chosen = runtime()
    outcome = replay(market, chosen, COSTS)
    foretold = replay_policy(market, Holdfast(chosen.layouts, Model([LAYER_BYTES] * LAYERS), COSTS), chosen.layouts)

    adds_up(outcome)
    assert outcome == replay(market, chosen, COSTS)
    assert outcome.goodput == pytest.approx(foretold.goodput, abs=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_with_notice_nothing_is_done_again_but_nodes_leave_early(seed: int) -> None:
    market = generate(Pattern(nodes=8, hours=2, loss_per_h=1.0, bursts_per_h=1.0, grid_s=60.0), seed).noticed(60.0)
    outcome = replay(market, runtime(), COSTS)

    adds_up(outcome)
    assert lost_s(outcome, "redone") == 0
    early = market.losses * 60.0 / market.node_seconds
    assert outcome.goodput > 0.98 - 1.5 * early


def test_the_published_trace_is_replayed_to_its_end() -> None:
    table = load_table(TRACES / "throughput-v100.json", "gpt-1.5b")
    spec = JobSpec.model_validate({"name": "replay", "program": {"entry": "table:gpt"}, "steps": 1})
    p3 = load_trace(TRACES / "aws-p3.csv")
    assert table.migration is not None
    costs = replace(MeasuredCosts(), link_bytes_per_s=table.migration.link_bytes_per_s)
    outcome = replay(p3, of_table(table, spec), costs)

    adds_up(outcome)
    assert outcome.lost_samples.get("failed", 0.0) == 0.0
    assert outcome.goodput >= 0.97, "reductions in rounds, cuts and newcomers weighed"

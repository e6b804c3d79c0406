"""Replays: published figures come out again, the sums add up, and Holdfast keeps what it promises on every trace."""

from pathlib import Path

import pytest

from holdfast.model.ids import NodeId
from holdfast.model.plan import Span
from holdfast.simulator.replay.comparing import Case, Prices, as_json, bound, case_of_table, policies, run
from holdfast.simulator.replay.costs import MeasuredCosts, ParcaeCosts
from holdfast.simulator.replay.floor import Floor, rebuild
from holdfast.simulator.replay.formats import load_trace
from holdfast.simulator.replay.generating import Pattern, generate
from holdfast.simulator.replay.holdfast import Holdfast
from holdfast.simulator.replay.model import Model
from holdfast.simulator.replay.replaying import Outcome, replay, worst_window
from holdfast.simulator.replay.table import load_table
from holdfast.simulator.replay.trace import Change, Trace

TRACES = Path(__file__).resolve().parents[3] / "benchmarks" / "traces"
FILES = ("aws-p3.csv", "gcp-v100.txt", "parcae-gpt-1.5b-hl.txt", "parcae-gpt-1.5b-lh.txt")
HOUR_S = 3600.0
# A window's sums of floats.
EPSILON = 1e-6


def case(trace: Trace) -> Case:
    return case_of_table(load_table(TRACES / "throughput-v100.json", "gpt-1.5b"), trace)


@pytest.fixture(scope="module")
def p3() -> dict[str, Outcome]:
    chosen = case(load_trace(TRACES / "aws-p3.csv"))
    return {name: run(chosen, name) for name in policies(chosen)}


def test_the_ideal_is_what_was_published(p3: dict[str, Outcome]) -> None:
    assert p3["ideal"].samples / p3["ideal"].seconds == pytest.approx(36.75, abs=0.01)


@pytest.mark.parametrize(
    ("policy", "goodput"), [("checkpoint", 0.78), ("parcae-reactive", 0.92), ("parcae-future", 0.93)]
)
def test_published_baselines_come_out_again(policy: str, goodput: float, p3: dict[str, Outcome]) -> None:
    assert p3[policy].goodput == pytest.approx(goodput, abs=0.011)


def test_with_the_same_constants_holdfast_is_ahead_of_all_others_and_near_the_bound(p3: dict[str, Outcome]) -> None:
    most = bound(case(load_trace(TRACES / "aws-p3.csv")))
    others = ("checkpoint", "varuna", "bamboo", "oobleck", "parcae-reactive", "parcae-future")

    assert most is not None
    assert max(p3[name].goodput for name in others) < p3["holdfast-same"].goodput < most < 0.98
    assert p3["holdfast-same"].goodput > 0.945
    assert p3["holdfast-even"].goodput > p3["parcae-future"].goodput


def test_where_newcomers_meet_beside_the_job_it_reaches_95_percent(p3: dict[str, Outcome]) -> None:
    assert p3["holdfast-warm"].goodput >= 0.95


def test_with_its_own_times_it_reaches_95_percent_announced_or_not(p3: dict[str, Outcome]) -> None:
    announced = run(case(load_trace(TRACES / "aws-p3.csv").noticed(120.0)), "holdfast")

    assert p3["holdfast"].goodput >= 0.95
    assert announced.goodput > p3["holdfast"].goodput


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("policy", ["holdfast-even", "holdfast-warm", "holdfast-same"])
def test_in_no_hour_is_it_below_reacting_by_checkpoints(file: str, policy: str) -> None:
    """A layout that yields 0.02 % less than the best is not left for it: so much may be missing."""
    chosen = case(load_trace(TRACES / file))
    lead, start_s = worst_window(run(chosen, policy), run(chosen, "checkpoint"), HOUR_S)

    assert lead >= -1.0, f"window from {start_s:.0f} s"


@pytest.mark.parametrize("file", FILES)
def test_with_notice_and_its_own_times_it_is_never_below_reacting_at_once_by_migration(file: str) -> None:
    chosen = case(load_trace(TRACES / file).noticed(120.0))
    lead, start_s = worst_window(run(chosen, "holdfast"), run(chosen, "parcae-reactive"), HOUR_S)

    assert lead >= -EPSILON, f"window from {start_s:.0f} s"


@pytest.mark.parametrize("seed", range(4))
def test_on_made_up_markets_nobody_exceeds_the_bound_and_all_sums_add_up(seed: int) -> None:
    chosen = case(generate(Pattern(nodes=30, hours=6, loss_per_h=0.2, bursts_per_h=2.0, grid_s=60.0), seed))
    most = bound(chosen)
    assert most is not None
    for name in policies(chosen):
        outcome = run(chosen, name)
        assert outcome.samples + sum(outcome.lost_samples.values()) == pytest.approx(outcome.ideal_samples)
        assert outcome.totals[-1] == outcome.samples
        assert outcome.times_s[-1] == chosen.trace.duration_s
        assert sum(outcome.stalled_s.values()) <= chosen.trace.duration_s + EPSILON
        if name in ("holdfast-same", "holdfast-even", "oobleck", "checkpoint"):
            assert outcome.goodput <= most + EPSILON


def test_one_trace_is_one_replay() -> None:
    chosen = case(load_trace(TRACES / FILES[3]))

    for name in policies(chosen):
        assert run(chosen, name) == run(chosen, name)


def test_a_quiet_trace_loses_only_its_start() -> None:
    changes = (Change(at_s=0.0, joined=tuple(NodeId(f"n{number}") for number in range(26))),)
    chosen = case(Trace(name="quiet", changes=changes, duration_s=10_000.0))
    outcome = run(chosen, "holdfast-same")

    assert outcome.generations == 1
    assert outcome.happenings[0].layout == "2x13"
    assert outcome.samples == pytest.approx(chosen.even.best(26).rate * (10_000.0 - outcome.stalled_s["start"]))


def test_spares_that_go_cost_nothing() -> None:
    nodes = tuple(NodeId(f"n{number:02}") for number in range(28))
    table = load_table(TRACES / "throughput-v100.json", "gpt-1.5b")
    assert table.layer_bytes is not None
    changes = (Change(at_s=0.0, joined=nodes), Change(at_s=500.0, left=nodes[-2:]))
    trace = Trace(name="spares", changes=changes, duration_s=1000.0)
    outcome = replay(trace, Holdfast(table.even(), Model(table.layer_bytes), MeasuredCosts()), table.even())

    assert [happening.layout for happening in outcome.happenings] == ["2x13"], "28 nodes yield less than 26"


def test_a_hole_is_filled_by_who_holds_the_layers_and_only_missing_bytes_move() -> None:
    model = Model([10] * 4)
    floor = Floor(((NodeId("a"), NodeId("b")), (NodeId("c"), NodeId("d"))))

    kept, nothing = rebuild(floor, (2,), [NodeId("a")], [], model)
    assert kept.pipelines == ((NodeId("c"), NodeId("d")),)
    assert (nothing.moved_bytes, nothing.newcomers, nothing.gone) == (0, 0, 1)

    filled, move = rebuild(floor, (2, 2), [NodeId("a")], [NodeId("e")], model)
    assert filled.members == {"b", "c", "d", "e"}
    assert (move.moved_bytes, move.received_bytes, move.sent_bytes, move.absent_bytes) == (20, 20, 20, 0)

    merged, grown = rebuild(floor, (3,), [NodeId("a")], [], model)
    spans = dict(zip(merged.pipelines[0], model.cuts(3), strict=True))
    assert grown.newcomers == 0
    assert grown.moved_bytes == sum(
        model.lacking(span, {"b": Span(2, 4), "c": Span(0, 2), "d": Span(2, 4)}[node]) for node, span in spans.items()
    )

    _, absent = rebuild(floor, (2,), [NodeId("a"), NodeId("c")], [NodeId("e")], model)
    assert absent.absent_bytes == 20, "the first two layers are gone"


def test_losing_all_holders_unannounced_costs_half_a_checkpoint_interval() -> None:
    model = Model([10] * 4)
    floor = Floor(((NodeId("a"), NodeId("b")), (NodeId("c"), NodeId("d"))))
    move = rebuild(floor, (2,), [NodeId("a"), NodeId("c")], [NodeId("e")], model)[1]
    costs = MeasuredCosts(checkpoint_steps=100)

    assert costs.seconds(move, step_s=2.0, noticed=False) > 100.0
    assert costs.seconds(move, step_s=2.0, noticed=True) < 1.0


def test_groups_of_equal_pipelines_are_counted_as_parcae_does() -> None:
    chosen = case(load_trace(TRACES / FILES[3]))
    assert chosen.migration is not None
    costs = ParcaeCosts(chosen.migration, chosen.model)

    assert costs.groups((13, 13)) == 2 + 13 + 1 + 26


def test_money_is_paid_for_all_who_are_there_and_own_machines_cost_their_price(p3: dict[str, Outcome]) -> None:
    trace = load_trace(TRACES / "aws-p3.csv")
    prices = Prices(spot=1.0, on_demand=3.0)

    assert as_json(p3["holdfast"], trace, prices)["money"] == pytest.approx(trace.node_seconds / 3600, abs=0.01)
    assert as_json(p3["on-demand"], trace, prices)["money"] == pytest.approx(24 * 3 * trace.duration_s / 3600, abs=0.01)

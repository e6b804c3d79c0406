"""The cost model, fitted to half of what was measured, against the other half; and layouts that nobody measured."""

from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from holdfast.model.ids import NodeId, SlotId
from holdfast.model.plan import Pipeline, Plan, Span, Stage
from holdfast.planner.timeline import estimate
from holdfast.simulator.replay.fitting import chosen, errors, every_other, fit
from holdfast.simulator.replay.model import Model
from holdfast.simulator.replay.table import Table, load_table

FILE = Path(__file__).resolve().parents[3] / "benchmarks" / "traces" / "throughput-v100.json"


@pytest.fixture(scope="module")
def table() -> Table:
    return load_table(FILE, "gpt-1.5b")


def test_fitted_on_half_it_foretells_the_other_half_within_8_percent(table: Table) -> None:
    known, rest = every_other(table)
    wrong = errors(fit(table, known), table, rest)

    assert not set(known) & set(rest)
    assert sum(wrong) / len(wrong) < 0.08
    assert max(wrong) < 0.08


@pytest.mark.parametrize("seed", range(10))
def test_so_it_does_on_any_half(table: Table, seed: int) -> None:
    entries = sorted(table.step_s)
    Random(seed).shuffle(entries)
    wrong = errors(fit(table, entries[::2]), table, entries[1::2])

    assert sum(wrong) / len(wrong) < 0.08


@pytest.mark.parametrize("nodes", range(8, 33))
def test_it_picks_a_layout_within_3_percent_of_the_best(table: Table, nodes: int) -> None:
    known, _ = every_other(table)
    picked = table.rate(*chosen(fit(table, known), table, nodes, known))

    assert picked >= 0.97 * table.even().best(nodes).rate


@pytest.mark.parametrize(("nodes", "rate"), [(27, 36.8), (22, 31.0), (14, 28.3)])
def test_what_it_picks_beats_what_others_reached(table: Table, nodes: int, rate: float) -> None:
    known, _ = every_other(table)

    assert table.rate(*chosen(fit(table, known), table, nodes, known)) > rate


def test_a_layout_of_equals_yields_what_was_measured_of_it(table: Table) -> None:
    even, uneven = table.even(), table.uneven()

    for pipelines, depth in table.step_s:
        layout = uneven.of((depth,) * pipelines)
        assert layout is not None
        assert layout == even.of((depth,) * pipelines)
        assert layout.rate == pytest.approx(128 / table.step_s[pipelines, depth])


def test_a_mixed_layout_is_no_faster_than_its_pipelines_among_equals(table: Table) -> None:
    """The mean of the two rates is what shares without any fixed cost would give at most."""
    uneven = table.uneven()
    mixed = [layout for layout in uneven.near(32, 1000) if len(set(layout.depths)) > 1]

    assert mixed
    for layout in mixed:
        count = len(layout.depths)
        rates = [table.rate(count, depth) for depth in layout.depths]
        assert min(rates) <= layout.rate <= sum(rates) / count * 1.0001


def test_the_fit_is_a_profile_that_the_planner_times_alike(table: Table) -> None:
    """But for the embedding's gradient, which the planner charges to the first stage and the fit to all alike."""
    model = fit(table, sorted(table.step_s))
    profile = model.profile(table)
    assert table.layer_bytes is not None
    for pipelines, depth in [(1, 16), (2, 13), (3, 8), (4, 7)]:
        share = -(-128 // pipelines)
        bounds = [min(128, number * share) for number in range(pipelines + 1)]
        cuts = _cuts(len(table.layer_bytes), depth)
        plan = Plan(
            tuple(
                Pipeline(
                    tuple(Stage(SlotId(NodeId(f"n{line}-{at}"), 0), span) for at, span in enumerate(cuts)),
                    Span(bounds[line], bounds[line + 1]),
                )
                for line in range(pipelines)
            )
        )
        seconds = estimate(plan, profile, 1, canonical=False).seconds
        assert seconds == pytest.approx(model.step_s(pipelines, depth), rel=0.12)


def _cuts(layers: int, depth: int) -> list[Span]:
    """As even as can be, the embedding with the first blocks."""
    bounds = [0, *(1 + round((layers - 1) * stage / depth) for stage in range(1, depth)), layers]
    return [Span(start, stop) for start, stop in pairwise(bounds)]


def test_restarts_cost_what_parcae_says(table: Table) -> None:
    from holdfast.simulator.replay.costs import ParcaeCosts

    assert table.migration is not None
    assert table.layer_bytes is not None
    costs = ParcaeCosts(table.migration, Model(table.layer_bytes))
    for (pipelines, depth), added, removed in [
        ((4, 8), 32.1898, 4.8583),
        ((2, 16), 33.8998, 3.8041),
        ((1, 32), 40.9698, 3.9636),
    ]:
        assert costs.restart_s((depth,) * pipelines, newcomers=True) == pytest.approx(added, abs=1e-4)
        assert costs.restart_s((depth,) * pipelines, newcomers=False) == pytest.approx(removed, abs=1e-4)

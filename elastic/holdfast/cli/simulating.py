"""`holdfast simulate`: what a job would commit, lose, move and cost on a preemption trace, policy by policy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from holdfast.cli.checkpoints.screen import print_json, print_table, table
from holdfast.cli.inspected import Inspected, inspect_program
from holdfast.cli.known_profiles import known_profile, read_profile
from holdfast.cli.profiling import measure, size_text
from holdfast.control.job import Job, job_for
from holdfast.errors import UserError
from holdfast.planner.profile import Profile
from holdfast.simulator.replay.advising import advise, advise_copies
from holdfast.simulator.replay.comparing import (
    Case,
    Prices,
    as_json,
    bound,
    case_of_table,
    goodput_by_copies,
    run,
    usual_policies,
)
from holdfast.simulator.replay.coordinated import NAME as COORDINATOR
from holdfast.simulator.replay.costs import MeasuredCosts
from holdfast.simulator.replay.drawing import draw
from holdfast.simulator.replay.formats import load_trace
from holdfast.simulator.replay.model import Model
from holdfast.simulator.replay.replaying import Outcome
from holdfast.simulator.replay.runtime import of_program
from holdfast.simulator.replay.table import load_table
from holdfast.simulator.replay.trace import Trace
from holdfast.spec import JobSpec, load_spec

# What one checkpoint takes from training where nothing is known: snapshots are copied while the next step computes.
_SAVE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateWish:
    """What `holdfast simulate` was asked for."""

    spec: Path
    trace: Path
    policies: tuple[str, ...]
    profile: Path | None
    table: Path | None
    model: str | None
    notice_s: float | None
    price_spot: float | None
    price_ondemand: float | None
    png: Path | None
    overrides: Mapping[str, Any]


def simulate(wish: SimulateWish, *, as_json: bool) -> None:
    """Print it, and write the PNG.

    Raises:
        UserError: spec, Program, trace, table or profile are wrong, or do not fit.
        UserCodeError: the user's code raised.
    """
    if wish.table is not None and wish.profile is not None:
        raise UserError("--profile and --table: both given; either tells what layouts yield, so give one")
    if (wish.price_spot is None) != (wish.price_ondemand is None):
        raise UserError("--price-spot and --price-ondemand: only one given; give both, or none")
    prices = None
    if wish.price_spot is not None and wish.price_ondemand is not None:
        prices = Prices(spot=wish.price_spot, on_demand=wish.price_ondemand)
    spec = load_spec(wish.spec, dict(wish.overrides))
    trace = load_trace(wish.trace)
    if wish.notice_s is not None:
        trace = trace.noticed(wish.notice_s)
    case = _of_table(wish, trace, spec) if wish.table is not None else _of_program(wish, spec, trace)
    outcomes = [run(case, name) for name in wish.policies or usual_policies(case)]
    sentences = advise(trace, case.uneven, _SAVE_S)
    sentences += [advise_copies(goodput_by_copies(case, one)) for one in outcomes if one.policy == COORDINATOR]
    most = bound(case)
    if wish.png is not None:
        draw(trace, outcomes, wish.png)
    if as_json:
        print_json(_document(trace, outcomes, prices, sentences, most))
    else:
        _print(trace, outcomes, prices, sentences, most)


def _of_table(wish: SimulateWish, trace: Trace, spec: JobSpec) -> Case:
    assert wish.table is not None
    measured = load_table(wish.table, wish.model)
    if measured.layer_bytes is None:
        raise UserError(f"--table {wish.table}, model {measured.name!r}: has no `layers`; give their sizes")
    return case_of_table(measured, trace, spec)


def _of_program(wish: SimulateWish, spec: JobSpec, trace: Trace) -> Case:
    if wish.model is not None:
        raise UserError(f"--model {wish.model}: names a model of --table, which is not given; give both, or none")
    if spec.slots_per_node != 1:
        raise UserError(f"slots_per_node: {spec.slots_per_node} given; a replay knows nodes of one slot: --set it to 1")
    inspected = inspect_program(spec, wish.spec.absolute().parent)
    profile = read_profile(wish.profile, inspected) if wish.profile is not None else known_profile(inspected)
    profile = profile or measure(inspected)
    runtime = of_program(_known_job(inspected, profile), inspected.program.global_batch)
    layouts = runtime.layouts
    least = next((nodes for nodes in range(1, trace.most_nodes + 1) if layouts.best(nodes).nodes), None)
    if least is None:
        raise UserError(f"layout: the model does not fit on the {trace.most_nodes} nodes that the trace has at most")
    return Case(
        trace=trace,
        even=layouts,
        uneven=layouts,
        model=Model([layer.state_bytes for layer in profile.layers]),
        migration=None,
        shallowest=layouts.best(least).depths[-1],
        own=MeasuredCosts(link_bytes_per_s=profile.between_nodes.bytes_per_s, checkpoint_steps=spec.checkpoints.every),
        runtime=runtime,
    )


def _known_job(inspected: Inspected, profile: Profile) -> Job:
    """As its coordinator would read it."""
    layers = inspected.facts.layers
    return job_for(
        inspected.spec,
        layer_names=tuple(layer.name for layer in layers),
        layer_bytes=tuple(layer.state_bytes for layer in layers),
        microbatches=inspected.facts.microbatches,
        profile=profile,
    )


def _document(
    trace: Trace, outcomes: Sequence[Outcome], prices: Prices | None, sentences: list[str], most: float | None
) -> dict[str, Any]:
    return {
        "schema": 1,
        "trace": {
            "name": trace.name,
            "duration_s": trace.duration_s,
            "mean_nodes": round(trace.mean_nodes, 3),
            "most_nodes": trace.most_nodes,
            "joins": trace.joins,
            "losses": trace.losses,
        },
        "policies": [as_json(outcome, trace, prices) for outcome in outcomes],
        "bound_goodput": round(most, 5) if most is not None else None,
        "advice": sentences,
    }


def _print(
    trace: Trace, outcomes: Sequence[Outcome], prices: Prices | None, sentences: list[str], most: float | None
) -> None:
    print(
        f"{trace.name}: {trace.duration_s / 3600:.1f} h, {trace.mean_nodes:.1f} nodes on average, at most "
        f"{trace.most_nodes}; {trace.joins} joins, {trace.losses} losses"
    )
    money = (">money", ">per million") if prices is not None else ()
    shown = table("policy", ">samples", ">per s", ">goodput", "lost to", ">generations", ">moved", ">remote", *money)
    for outcome in outcomes:
        figures = as_json(outcome, trace, prices)
        paid = (f"{figures['money']:.2f}", f"{figures['money_per_million_samples'] or 0:.2f}") if prices else ()
        shown.add_row(
            outcome.policy,
            f"{outcome.samples:,.0f}",
            f"{figures['samples_per_s']:.2f}",
            f"{outcome.goodput:.1%}",
            escape(_causes(outcome)),
            str(outcome.generations),
            size_text(outcome.moved_bytes),
            size_text(outcome.remote_bytes),
            *paid,
        )
    print_table(shown)
    if most is not None:
        print(f"Who pays Parcae's constants, rendezvous included, cannot exceed {most:.1%}, whatever was known.")
    print("Advice:\n" + "\n".join(f"  {sentence}" for sentence in sentences))


def _causes(outcome: Outcome) -> str:
    """Shares of the ideal, the largest first; those of half a thousandth are left out."""
    shares = (
        [(lost / outcome.ideal_samples, cause) for cause, lost in outcome.lost_samples.items()]
        if (outcome.ideal_samples)
        else []
    )
    return ", ".join(f"{cause} {share:.1%}" for share, cause in sorted(shares, reverse=True) if abs(share) >= 0.0005)

"""What Holdfast and others commit on published preemption traces, and how well a fitted cost model foretells layouts.

    python benchmarks/replay.py [--json FILE]

Nothing is measured but the time of the replays themselves: throughput and migration constants are Parcae's (V100,
GPT-1.5B), or Holdfast's own from docs/benchmarks.md.
"""

import sys

sys.path.insert(0, sys.path.pop(0).rpartition("/")[0])  # in this folder `operator.py` would hide Python's own

import random
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks.harness.processes import REPOSITORY
from benchmarks.harness.results import machine, parser, progress, tell
from holdfast.simulator.replay.comparing import bound, case_of_table, goodput_by_copies, policies, run
from holdfast.simulator.replay.coordinated import NAME as COORDINATOR
from holdfast.simulator.replay.costs import MeasuredCosts
from holdfast.simulator.replay.fitting import chosen, errors, every_other, fit
from holdfast.simulator.replay.formats import load_trace
from holdfast.simulator.replay.generating import Pattern, generate
from holdfast.simulator.replay.holdfast import Holdfast
from holdfast.simulator.replay.model import Model
from holdfast.simulator.replay.replaying import Outcome, replay, worst_window
from holdfast.simulator.replay.table import Table, load_table
from holdfast.spec import JobSpec

TRACES = REPOSITORY / "benchmarks" / "traces"
FILES = ("aws-p3.csv", "gcp-v100.txt", "parcae-gpt-1.5b-hl.txt", "parcae-gpt-1.5b-lh.txt")
SPEC = JobSpec.model_validate({"name": "replay", "program": {"entry": "table:model"}, "steps": 1})
NOTICE_S = 120.0  # of AWS; of the systems only Holdfast's own times depend on it
WINDOW_S = 3600.0
PUBLISHED = {"checkpoint": 0.78, "parcae-reactive": 0.92, "parcae-future": 0.93}
RATES = {27: 36.8, 22: 31.0, 14: 28.3}
SPLITS = 20
WEEK_S_MAX = 120.0


def main() -> None:
    arguments = parser(__doc__.splitlines()[0] if __doc__ else "").parse_args()
    facts = machine()
    table = load_table(TRACES / "throughput-v100.json", "gpt-1.5b")
    traces = {file: _trace(table, file) for file in FILES}
    p3 = traces["aws-p3.csv"]
    fitted = _fit(table)
    week = _week(table)
    document = {
        "benchmark": "replay",
        "machine": facts,
        "aws_p3_goodput": p3["goodput"]["holdfast-same"],
        "aws_p3_goodput_warm": p3["goodput"]["holdfast-warm"],
        "aws_p3_goodput_own": p3["goodput"]["holdfast"],
        "aws_p3_goodput_own_noticed": p3["goodput"]["holdfast noticed"],
        "aws_p3_goodput_coordinator": p3["goodput"][COORDINATOR],
        "aws_p3_goodput_coordinator_silent": p3["goodput"][f"{COORDINATOR} silent"],
        "aws_p3_goodput_coordinator_by_copies": p3["coordinator_by_copies"],
        "aws_p3_bound": p3["bound"],
        "baselines": {name: p3["goodput"][name] for name in PUBLISHED},
        "windows": {file: figures["windows"] for file, figures in traces.items()},
        **week,
        "fit": fitted,
        "traces": traces,
    }
    document["goals_met"] = _goals(document)
    tell(document, _table(document), arguments.json)


def _trace(table: Table, file: str) -> dict[str, Any]:
    case = case_of_table(table, load_trace(TRACES / file).noticed(0.0), SPEC)
    outcomes = {name: run(case, name) for name in policies(case)}
    noticed = replace(case, trace=case.trace.noticed(NOTICE_S))
    outcomes |= {f"{name} noticed": run(noticed, name) for name in ("holdfast", "holdfast-reactive", COORDINATOR)}
    by_copies = goodput_by_copies(case, outcomes[COORDINATOR])
    outcomes[f"{COORDINATOR} silent"] = run(replace(case, own=case.own.silent()), COORDINATOR)
    progress(f"{file}: {', '.join(f'{name} {outcome.goodput:.1%}' for name, outcome in outcomes.items())}")
    ours = [name for name in outcomes if name.startswith("holdfast") and "reactive" not in name]
    most = bound(case)
    return {
        "ideal_samples_per_s": round(outcomes["ideal"].samples / outcomes["ideal"].seconds, 3),
        "bound": round(most, 5) if most is not None else None,
        "goodput": {name: round(outcome.goodput, 5) for name, outcome in outcomes.items()},
        "coordinator_by_copies": {str(copies): round(goodput, 5) for copies, goodput in by_copies.items()},
        "windows": {
            f"{name} over {other}": _least_lead(outcomes[name], outcomes[other])
            for name in ours
            for other in ("checkpoint", "parcae-reactive")
        }
        | {
            f"holdfast{way} over holdfast-reactive": _least_lead(
                outcomes[f"holdfast{way}"], outcomes[f"holdfast-reactive{way}"]
            )
            for way in ("", " noticed")
        },
    }


def _least_lead(one: Outcome, other: Outcome) -> dict[str, float]:
    """Of all hours, that in which `one` leads least: by how many samples, and as a share of the other's."""
    lead, start_s = worst_window(one, other, WINDOW_S)
    committed = other.within(start_s, min(start_s + WINDOW_S, other.seconds))
    return {
        "samples": round(lead, 2),
        "share": round(lead / committed, 5) if committed else 0.0,
        "from_s": round(start_s, 1),
    }


def _fit(table: Table) -> dict[str, Any]:
    known, rest = every_other(table)
    model = fit(table, known)
    wrong = errors(model, table, rest)
    best = {nodes: table.even().best(nodes).rate for nodes in range(8, 33)}
    picked = {nodes: table.rate(*chosen(model, table, nodes, known)) for nodes in best}
    alone = {nodes: table.rate(*chosen(model, table, nodes)) for nodes in best}
    means, picks = [], []
    for seed in range(SPLITS):
        entries = sorted(table.step_s)
        random.Random(seed).shuffle(entries)
        other = fit(table, entries[::2])
        found = errors(other, table, entries[1::2])
        means.append(sum(found) / len(found))
        picks.append(min(table.rate(*chosen(other, table, n, entries[::2])) / rate for n, rate in best.items()))
    return {
        "entries": [len(known), len(rest)],
        "mean_error": round(sum(wrong) / len(wrong), 5),
        "largest_error": round(max(wrong), 5),
        "random_splits_mean_error": round(sum(means) / len(means), 5),
        "random_splits_largest_mean_error": round(max(means), 5),
        "random_splits_worst_pick": [round(pick, 4) for pick in sorted(picks)],
        "worst_pick": round(min(picked[nodes] / rate for nodes, rate in best.items()), 5),
        "worst_pick_by_model_alone": round(min(alone[nodes] / rate for nodes, rate in best.items()), 5),
        "samples_per_s": {str(nodes): round(picked[nodes], 3) for nodes in RATES},
        "samples_per_s_uneven": {str(nodes): round(table.uneven().best(nodes).rate, 3) for nodes in best},
        "parameters_s": {
            "layer": model.layer_s,
            "stage": model.stage_s,
            "reduce": model.reduce_s,
            "fixed": model.fixed_s,
        },
    }


def _week(table: Table) -> dict[str, Any]:
    """A made-up market of a thousand nodes; layouts of the fitted model with 32 times the batch."""
    assert table.layer_bytes is not None
    trace = generate(Pattern(nodes=1000, hours=168), seed=1)
    layouts = fit(table, sorted(table.step_s)).for_batch(32 * table.global_batch).layouts(shallowest=6)
    begun_s, begun_cpu_s = time.monotonic(), time.process_time()
    outcome = replay(trace, Holdfast(layouts, Model(table.layer_bytes), MeasuredCosts()), layouts)
    return {
        "week_1000_nodes_s": round(time.monotonic() - begun_s, 2),
        "week_1000_nodes_cpu_s": round(time.process_time() - begun_cpu_s, 2),
        "week_1000_nodes": {
            "changes": len(trace.changes),
            "losses": trace.losses,
            "generations": outcome.generations,
            "goodput": round(outcome.goodput, 5),
        },
    }


def _goals(document: Mapping[str, Any]) -> dict[str, bool]:
    fitted = document["fit"]

    def least(*, over: str) -> float:
        """Of every variant of ours, trace and hour."""
        named = [item for figures in document["windows"].values() for item in figures.items()]
        return min(float(lead["samples"]) for name, lead in named if name.endswith(over))

    return {
        "published baselines within 1.1 points": all(
            abs(document["baselines"][name] - share) <= 0.011 for name, share in PUBLISHED.items()
        ),
        "p3 at least 95 % with the same constants": document["aws_p3_goodput"] >= 0.95,
        "p3 at least 95 % with the same constants, newcomers warm": document["aws_p3_goodput_warm"] >= 0.95,
        "p3 at least 95 % with its own": document["aws_p3_goodput_own"] >= 0.95,
        "p3 at least 95 % with the real coordinator": document["aws_p3_goodput_coordinator"] >= 0.95,
        "no hour below reacting by checkpoints": least(over="over checkpoint") >= -1e-6,
        "no hour below reacting at once by migration": least(over="over parcae-reactive") >= -1e-6,
        "no hour below reacting at once by Holdfast's own means": least(over="over holdfast-reactive") >= -1e-6,
        "fit within 8 %": fitted["mean_error"] < 0.08 and fitted["random_splits_largest_mean_error"] < 0.08,
        "picks within 3 %": fitted["worst_pick"] >= 0.97,
        "beats what others reached": all(fitted["samples_per_s"][str(n)] > rate for n, rate in RATES.items()),
        "a week of 1,000 nodes in 2 minutes": document["week_1000_nodes_s"] < WEEK_S_MAX,
    }


def _table(document: Mapping[str, Any]) -> list[str]:
    names = list(document["traces"][FILES[0]]["goodput"])
    lines = [f"{'goodput':<20}" + "".join(f"{file.partition('.')[0][-12:]:>14}" for file in FILES)]
    for name in names:
        shares = (document["traces"][file]["goodput"][name] for file in FILES)
        lines.append(f"{name:<20}" + "".join(f"{share:>14.1%}" for share in shares))
    bounds = (document["traces"][file]["bound"] for file in FILES)
    lines.append(f"{'bound':<20}" + "".join(f"{share:>14.1%}" for share in bounds))
    fitted = document["fit"]
    lines.append(
        f"fit on half of the table: mean error {fitted['mean_error']:.1%} on the rest "
        f"({fitted['random_splits_mean_error']:.1%} over {SPLITS} random halves), worst pick {fitted['worst_pick']:.1%}"
    )
    lines.append(f"a week of 1,000 nodes: {document['week_1000_nodes_s']:.1f} s")
    return lines + [f"  {'met' if met else 'MISSED':<8}{goal}" for goal, met in document["goals_met"].items()]


if __name__ == "__main__":
    main()

"""How long the planner takes, and how good its layouts are beside all there are and beside a uniform grid.

    python benchmarks/planner.py [--repeats 5] [--cases 60] [--json FILE]

Times are processor time of one core, the median of the repeats. A case is planned as after a loss: one node is gone,
the others hold what they had. Every layout is judged by the planner's own objective, which `docs/planning.md` holds
against a simulation of the schedule.
"""

import sys

sys.path.insert(0, sys.path.pop(0).rpartition("/")[0])  # in this folder `operator.py` would hide Python's own

import argparse
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks.harness.results import machine, median, parser, progress, tell
from benchmarks.harness.trying_all import best_by_trying, outcome
from benchmarks.harness.uniform_grid import grid_step
from holdfast.errors import NoPlanError
from holdfast.model.ids import NodeId, SlotId
from holdfast.planner.bounds import lower_bound
from holdfast.planner.request import Request
from holdfast.planner.search import Decision, plan

# (slots, layers, seconds that planning may take)
SIZES = ((8, 12, 0.01), (64, 96, 0.05), (1024, 96, 1.0), (4096, 128, 10.0))
# Kinds of slots where they differ: speed, memory as a share of the model.
KINDS = ((1.0, 0.5), (0.8, 0.4), (0.5, 0.3))


def main() -> None:
    arguments = _arguments()
    document: dict[str, Any] = {"benchmark": "planner", "machine": machine()}
    timed = _timed(arguments.repeats)
    document |= {f"slots_{slots}_s": timed[f"{slots} slots"]["seconds"] for slots, _, _ in SIZES}
    document |= {"timed": timed, **_against_all(arguments.cases, arguments.seed), **_against_grid()}
    document["worst_gap_to_bound"] = max(case["gap_to_bound"] for case in timed.values() if not case["mixed"])
    document["worst_gap_to_bound_mixed"] = max(case["gap_to_bound"] for case in timed.values() if case["mixed"])
    document["goals_met"] = {
        **{f"{name} within {case['limit_s']} s": case["seconds"] < case["limit_s"] for name, case in timed.items()},
        "no layout of few slots is better": document["exact_equal"] == document["exact_cases"],
        "no uniform grid is better": min(document["grid_step_ratio"].values()) >= 1,
    }
    tell(document, _table(document), arguments.json)


def _arguments() -> argparse.Namespace:
    made = parser(__doc__.splitlines()[0] if __doc__ else "")
    made.add_argument("--repeats", type=int, default=5)
    made.add_argument("--cases", type=int, default=60, help="that are held against all layouts")
    made.add_argument("--seed", type=int, default=0, help="of those cases")
    return made.parse_args()


def slots_of(count: int, a_node: int = 1) -> tuple[SlotId, ...]:
    return tuple(SlotId(NodeId(f"n{number // a_node:04}"), number % a_node) for number in range(count))


def request(count: int, layers: int, *, a_node: int = 1, mixed: bool = False) -> Request:
    """A transformer between two larger layers; half of it fits into a slot, and four microbatches come to each slot."""
    slots, size = slots_of(count, a_node), 100 << 20
    layer_bytes = (2 * size, *[size] * (layers - 2), 2 * size)
    memory = sum(layer_bytes) // 2
    kind_of = {slot: KINDS[int(slot.node[1:]) % len(KINDS)] for slot in slots} if mixed else {}
    return Request(
        slots=slots,
        layer_costs=(0.5, *[1.0] * (layers - 2), 1.5),
        layer_bytes=layer_bytes,
        blocks=4 * count,
        block_size=1,
        memory_per_slot_bytes=memory,
        activation_bytes=(1 << 20,) * layers,
        boundary_costs=(0.05,) * layers,
        speeds={slot: speed for slot, (speed, _) in kind_of.items() if speed != 1},
        memory_bytes={slot: int(2 * share * memory) for slot, (_, share) in kind_of.items()},
    )


def after_loss(asked: Request) -> Request:
    """Of the second node."""
    lost = sorted({slot.node for slot in asked.slots})[1]
    held = {stage.slot: frozenset(stage.layers) for stage in plan(asked).plan.stages if stage.slot.node != lost}
    return replace(asked, slots=tuple(slot for slot in asked.slots if slot.node != lost), held=held)


def _timed(repeats: int) -> dict[str, dict[str, Any]]:
    found = {}
    for count, layers, limit_s in SIZES:
        variants: dict[str, Mapping[str, Any]] = {"": {}, ", three kinds": {"mixed": True}}
        if count > 8:
            variants[", eight a node"] = {"a_node": 8}
        for variant, wishes in variants.items():
            asked = after_loss(request(count, layers, **wishes))
            seconds, decision = _median_s(asked, repeats)
            bound = lower_bound(asked, min(asked.copies, decision.copies))
            found[f"{count} slots{variant}"] = {
                "layers": layers,
                "seconds": round(seconds, 5),
                "limit_s": limit_s,
                "mixed": "mixed" in wishes,
                "layout": decision.plan.describe(),
                "copies": decision.copies,
                "idle": len(decision.idle),
                "gap_to_bound": round(decision.step_cost / bound - 1, 4),
            }
            progress(f"{count} slots{variant}: {seconds:.4f} s, {decision.plan.describe()}")
    return found


def _median_s(asked: Request, repeats: int) -> tuple[float, Decision]:
    times = []
    for _ in range(repeats):
        begin_s = time.process_time()
        decision = plan(asked)
        times.append(time.process_time() - begin_s)
    return median(times), decision


def random_request(draw: random.Random, *, slots_max: int = 8, layers_max: int = 12) -> Request:
    """At most two kinds of slots, each on a node of its own."""
    slots, layers = slots_of(draw.randint(2, slots_max)), draw.randint(1, layers_max)
    layer_bytes = tuple(draw.randint(1, 50) for _ in range(layers))
    kinds = [(draw.choice([1.0, 0.5, 0.8]), draw.choice([None, sum(layer_bytes)])) for _ in range(2)]
    kind_of = {slot: draw.choice(kinds) for slot in slots}
    return Request(
        slots=slots,
        layer_costs=tuple(draw.choice([0.2, 1.0, 1.0, 1.5, 3.0]) for _ in range(layers)),
        layer_bytes=layer_bytes,
        blocks=draw.randint(2, 16),
        block_size=draw.randint(1, 3),
        activation_bytes=tuple(draw.randint(0, 9) for _ in range(layers)),
        boundary_costs=tuple(draw.choice([0.0, 0.1]) for _ in range(layers)),
        speeds={slot: speed for slot, (speed, _) in kind_of.items() if speed != 1},
        memory_bytes={slot: memory for slot, (_, memory) in kind_of.items() if memory is not None},
    )


def _against_all(cases: int, seed: int) -> dict[str, Any]:
    draw = random.Random(seed)
    equal, ours_s, theirs_s, done = 0, 0.0, 0.0, 0
    while done < cases:
        asked = random_request(draw)
        try:
            took_s, decision = _median_s(asked, 1)
        except NoPlanError:
            continue
        begin_s = time.process_time()
        best = best_by_trying(asked, min(asked.copies, decision.copies))
        theirs_s += time.process_time() - begin_s
        ours_s += took_s
        done += 1
        equal += outcome(asked, decision) == best
    progress(f"{equal} of {cases} equal to the best of all layouts")
    return {
        "exact_cases": cases,
        "exact_equal": equal,
        "exact_mean_s": round(ours_s / cases, 5),
        "trying_all_mean_s": round(theirs_s / cases, 4),
        "trying_all_ratio": round(theirs_s / ours_s, 1),
    }


def _against_grid() -> dict[str, Any]:
    """How much longer a step takes with the best uniform grid, for every number of slots from 8 to 64."""
    ratios = {}
    for count in range(8, 65):
        asked = request(count, 48)
        ratios[str(count)] = round(grid_step(asked, asked.copies) / plan(asked).step_cost, 4)
    return {"grid_step_ratio": ratios, "grid_step_ratio_median": median(list(ratios.values()))}


def _table(document: Mapping[str, Any]) -> list[str]:
    lines = [f"{'planning after a loss':<28}{'seconds':>10}{'of limit':>10}{'gap to bound':>14}  layout"]
    for name, case in document["timed"].items():
        lines.append(
            f"  {name:<26}{case['seconds']:>10.4f}{case['seconds'] / case['limit_s']:>10.2f}"
            f"{case['gap_to_bound']:>14.2%}  {case['layout']}"
        )
    ratios = document["grid_step_ratio"]
    worst = max(ratios, key=lambda count: ratios[count])
    lines += [
        f"equal to the best of all layouts: {document['exact_equal']} of {document['exact_cases']} cases, "
        f"{document['trying_all_ratio']:.0f} times faster than trying all",
        f"a step of the best uniform grid takes {document['grid_step_ratio_median']:.2f} times as long (median of 8 to "
        f"64 slots), at most {ratios[worst]:.2f} times ({worst} slots)",
    ]
    return lines + [f"  {'met' if met else 'MISSED':<8}{goal}" for goal, met in document["goals_met"].items()]


if __name__ == "__main__":
    main()

"""Predicted step time against measured, for the examples in many layouts on this machine.

    python benchmarks/calibration.py [--specs SPEC ...] [--layouts 1x1 2x2 ...] [--steps 20] [--json FILE]

Each Program is profiled as `holdfast profile` does it; then Holdfast trains in each layout (pipelines x depth), and the
step that `planner.timeline` predicts for the plan it ran, with the machine's cores shared, is held against the median
step. `others` is what else the machine did meanwhile, in cores: with more than a few hundredths of one the measured
times say little. The work of a step, in seconds of a core, is compared too; other work on the machine hardly moves it.
"""

import sys

sys.path.insert(0, sys.path.pop(0).rpartition("/")[0])  # in this folder `operator.py` would hide Python's own

import argparse
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks.harness.contenders import gaps_s
from benchmarks.harness.holdfast_run import HoldfastRun, RunRequest
from benchmarks.harness.processes import REPOSITORY, BenchmarkError, descendants, environment
from benchmarks.harness.results import machine, progress, tell
from holdfast.cli.inspected import Inspected, inspect_program
from holdfast.cli.profiling import measure
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.plan import Pipeline, Plan, Span, Stage
from holdfast.planner.profile import Profile
from holdfast.planner.timeline import estimate, spans
from holdfast.spec import load_spec

ERROR_MAX = 0.10
LAYOUTS = ("1x1", "1x2", "1x3", "1x4", "2x1", "2x2", "3x1", "4x1")
SPECS = (REPOSITORY / "examples" / "gpt" / "tiny.yaml", REPOSITORY / "examples" / "gpt" / "small.yaml")
# A snapshot takes time of some steps, which no prediction of a step speaks of.
OVERRIDES = {"snapshots.every": 0}
_WARM_UP_STEPS = 8
_JIFFY_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Of one layout: a step, its work in seconds of a core, and what else the machine did, in cores."""

    plan: Plan
    step_s: float
    work_s: float
    others: float


def run_layout(spec: Path, layout: str, folder: Path, steps: int) -> Measured:
    """Train in `pipelines`x`depth` and watch `steps` steps.

    Raises:
        BenchmarkError: Holdfast ran another layout.
    """
    pipelines, depth = map(int, layout.split("x"))
    request = RunRequest(
        spec=spec, nodes=pipelines, slots=depth, overrides={**OVERRIDES, "layout.depth": depth, "nodes.min": pipelines}
    )
    with HoldfastRun(request, folder / layout / "run", name=layout) as run:
        run.wait_step(_WARM_UP_STEPS)
        before = len(run.commits())
        begun_s, ours_s, all_s = time.monotonic(), _cpu_of_ours(), _cpu_of_machine()
        run.wait_step(run.step + steps, within_s=600.0)
        wall_s = time.monotonic() - begun_s
        ours_s, all_s = _cpu_of_ours() - ours_s, _cpu_of_machine() - all_s
        commits = run.commits()[before:]
        report = run.stop()
    generation = report["generations"][0]
    if generation["layout"] != layout:
        raise BenchmarkError(f"{layout}: Holdfast ran {generation['layout']}")
    return Measured(
        plan=_plan_of(generation["pipelines"]),
        step_s=median(gaps_s(commits)),
        work_s=ours_s / len(commits),
        others=max(0.0, (all_s - ours_s) / wall_s),
    )


def _plan_of(pipelines: Sequence[Mapping[str, Any]]) -> Plan:
    """What a report says was run."""
    return Plan(
        tuple(
            Pipeline(
                tuple(Stage(SlotId(NodeId(s["node"]), s["slot"]), Span(*s["layers"])) for s in pipeline["stages"]),
                Span(*pipeline["blocks"]),
            )
            for pipeline in pipelines
        )
    )


def _cpu_of_ours() -> float:
    """Seconds of a core that this process and those below it had: launcher, agents, workers."""
    jiffies = 0
    for pid in {os.getpid(), *descendants(os.getpid())}:
        with contextlib.suppress(OSError):  # one that has ended
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            jiffies += int(fields[11]) + int(fields[12])
    return jiffies * _JIFFY_S


def _cpu_of_machine() -> float:
    """Seconds that its cores were busy, and those that its host took from it."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) * _JIFFY_S


def compare(inspected: Inspected, profile: Profile, measured: Measured) -> dict[str, Any]:
    """One row."""
    how = {"canonical": inspected.spec.reduction == "canonical"}
    predicted = estimate(measured.plan, profile, inspected.spec.block, **how, cores=os.cpu_count())
    alone = spans(measured.plan, profile, inspected.spec.block, **how)
    return {
        "measured_s": round(measured.step_s, 5),
        "predicted_s": round(predicted.seconds, 5),
        "error": round(predicted.seconds / measured.step_s - 1, 4),
        "measured_work_s": round(measured.work_s, 5),
        "predicted_work_s": round(sum(span.end_s - span.start_s for busy in alone for span in busy), 5),
        "others_cores": round(measured.others, 3),
    }


def calibrate(spec: Path, layouts: Sequence[str], steps: int) -> dict[str, dict[str, Any]]:
    """All layouts of one spec, by name."""
    inspected = inspect_program(load_spec(spec, OVERRIDES), spec.absolute().parent)
    os.environ.update(environment())  # for the processes that measure, as for those of a run
    profile = measure(inspected)
    folder = Path(tempfile.mkdtemp(prefix="holdfast-calibration-"))
    rows = {}
    for layout in layouts:
        rows[layout] = compare(inspected, profile, run_layout(spec, layout, folder, steps))
        progress(_row(f"{spec.stem} {layout}", rows[layout]))
    shutil.rmtree(folder)
    return rows


def main() -> None:
    arguments = _arguments()
    facts = machine()
    found = {spec.stem: calibrate(spec, arguments.layouts, arguments.steps) for spec in arguments.specs}
    rows = [row for layouts in found.values() for row in layouts.values()]
    errors = [abs(row["error"]) for row in rows]
    document = {
        "benchmark": "calibration",
        "machine": facts,
        "steps": arguments.steps,
        "specs": found,
        "layouts": len(rows),
        "mean_error": round(fmean(errors), 4),
        "max_error": round(max(errors), 4),
        "others_cores_max": max(row["others_cores"] for row in rows),
        "goals_met": {
            f"{len(rows)} layouts, at least 12": len(rows) >= 12,
            "predicted step time within 10 % of measured in each": max(errors) <= ERROR_MAX,
        },
    }
    tell(document, _table(document), arguments.json)


def _arguments() -> argparse.Namespace:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    made.add_argument("--specs", nargs="+", type=Path, default=list(SPECS))
    made.add_argument("--layouts", nargs="+", default=list(LAYOUTS), metavar="PxD")
    made.add_argument("--steps", type=int, default=20, help="steps that count in each layout")
    made.add_argument("--json", metavar="FILE", help="write one JSON document there; '-': on standard output")
    return made.parse_args()


def _row(name: str, row: Mapping[str, Any]) -> str:
    milliseconds = {key: f"{value * 1000:.1f} ms" for key, value in row.items() if key.endswith("_s")}
    return (
        f"{name:<12}{milliseconds['measured_s']:>13}{milliseconds['predicted_s']:>13}{row['error'] * 100:>+8.1f} %"
        f"{milliseconds['measured_work_s']:>15}{milliseconds['predicted_work_s']:>11}{row['others_cores']:>8.2f}"
    )


def _table(document: Mapping[str, Any]) -> list[str]:
    head = f"{'':<12}{'measured':>13}{'predicted':>13}{'error':>10}{'work measured':>15}{'predicted':>11}{'others':>8}"
    rows = [_row(f"{spec} {name}", row) for spec, rows in document["specs"].items() for name, row in rows.items()]
    summary = f"error: mean {document['mean_error']:.1%}, largest {document['max_error']:.1%}"
    goals = [f"  {'met' if met else 'MISSED':<8}{goal}" for goal, met in document["goals_met"].items()]
    return [head, *rows, summary, *goals]


if __name__ == "__main__":
    main()

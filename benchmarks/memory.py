"""A worker's peak memory beside what its own layers need: parameters, gradients, optimizer state, activations.

    python benchmarks/memory.py [--spec SPEC] [--width 640] [--layouts 1x1 ...] [--json FILE]

Needed: counted from the layers (tensors saved for backward are measured once, times the microbatches that 1F1B keeps
in flight). Taken: the peak of the worker's own pages in training, above what it held when it was warm and had no layer.
The same is measured of plain PyTorch with the same stage, since no allocator reaches the count.
"""

import sys

sys.path.insert(0, sys.path.pop(0).rpartition("/")[0])  # in this folder `operator.py` would hide Python's own

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.contenders import ProgramSource
from benchmarks.harness.holdfast_run import HoldfastRun
from benchmarks.harness.layouts import LAYOUTS, Layout, check_layout, program_source
from benchmarks.harness.memory_reading import anonymous_peak_bytes, read_memory
from benchmarks.harness.needs import StageNeeds, stage_needs
from benchmarks.harness.processes import REPOSITORY, environment
from benchmarks.harness.results import machine, parser, progress, tell
from holdfast.model.plan import Plan
from holdfast.program import Program, load_program

RATIO_MAX = 1.15
STEPS = 6
_MIB = 1 << 20
REDUCTIONS = ("allreduce", "canonical")


def measure_workers(layout: Layout, spec: Path, reduction: str, overrides: Mapping[str, Any], out: Path) -> list[int]:
    """Peak bytes of each worker's own pages, by rank, in a run of its own."""
    planned = layout.plan(spec, overrides)
    with HoldfastRun(layout.request(spec, reduction, overrides), out) as run:
        baselines: dict[int, Mapping[str, int]] = {}
        # A worker shows in nodes.json once it is warm; its first layer comes after that, when all are.
        while len(baselines) < layout.ranks:
            run.check()
            baselines |= {pid: read_memory(pid) for pid in run.pids() if pid not in baselines}
            time.sleep(0.001)
        run.wait_step(STEPS, within_s=300.0)
        nodes = run.nodes()
        pids = [nodes[stage.slot.node]["worker_pids"][stage.slot.index] for stage in planned.stages]
        peaks = [anonymous_peak_bytes(read_memory(pid), baselines[pid]) for pid in pids]
        check_layout(run.stop(), planned)
    return peaks


def measure_plain(source: ProgramSource, planned: Plan, rank: int, needs: StageNeeds) -> int:
    """Peak bytes of plain PyTorch with the same stage."""
    layers = planned.stages[rank].layers
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "peers" / "stage_memory.py")]
    command += ["--program", source.to_json(), "--log", "/dev/null", "--layers", f"{layers.start},{layers.stop}"]
    command += ["--in-flight", str(needs.in_flight), "--microbatches", str(needs.microbatches)]
    done = subprocess.run(command, env=environment(), check=True, capture_output=True, text=True)
    peak: int = json.loads(done.stdout)["peak_bytes"]
    return peak


def compare(layout: Layout, spec: Path, overrides: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Each rank of one layout."""
    planned, source = layout.plan(spec, overrides), program_source(spec, overrides)
    program = _program(source)
    peaks = {r: measure_workers(layout, spec, r, overrides, folder / r / "run") for r in REDUCTIONS}
    rows = []
    for rank, stage in enumerate(planned.stages):
        needs = stage_needs(program, planned, rank)
        plain = measure_plain(source, planned, rank, needs)
        row: dict[str, Any] = {
            "rank": rank,
            "layers": [stage.layers.start, stage.layers.stop],
            "needed_bytes": needs.total_bytes,
            "needed": needs.parts_bytes(),
            "plain_bytes": plain,
            "plain_ratio": round(plain / needs.total_bytes, 4),
        }
        for reduction in REDUCTIONS:
            peak = peaks[reduction][rank]
            row[reduction] = {
                "peak_bytes": peak,
                "ratio": round(peak / needs.total_bytes, 4),
                "ratio_to_plain": round(peak / plain, 4),
                "extra_gradients": round((peak - plain) / needs.parameter_bytes, 2),
            }
        rows.append(row)
    return rows


def main() -> None:
    arguments = _arguments()
    facts = machine()
    overrides = {"program.params.width": arguments.width, "program.params.heads": arguments.heads}
    folder = Path(tempfile.mkdtemp(prefix="holdfast-memory-"))
    found: dict[str, list[dict[str, Any]]] = {}
    for layout in LAYOUTS:
        if str(layout) in arguments.layouts:
            found[str(layout)] = compare(layout, arguments.spec, overrides, folder / str(layout))
            progress("\n".join(_rows(str(layout), found[str(layout)])))
    worst = {r: max(row[r]["ratio"] for rows in found.values() for row in rows) for r in REDUCTIONS}
    document = {
        "benchmark": "memory",
        "machine": facts,
        "spec": str(arguments.spec),
        "parameters": sum(
            parameter.numel()
            for layer in _program(program_source(arguments.spec, overrides)).layers
            for parameter in layer.build().parameters()
        ),
        "layouts": found,
        "worst_ratio": worst,
        "goals_met": {"within 15 % of what its layers need, with allreduce": worst["allreduce"] <= RATIO_MAX},
    }
    tell(document, _table(document), arguments.json)
    shutil.rmtree(folder)


def _arguments() -> argparse.Namespace:
    names = [str(layout) for layout in LAYOUTS]
    made = parser(__doc__.splitlines()[0] if __doc__ else "")
    made.add_argument("--layouts", nargs="+", choices=names, default=names)
    made.add_argument("--width", type=int, default=640, help="of the model: large enough that constants do not count")
    made.add_argument("--heads", type=int, default=10)
    return made.parse_args()


def _program(source: ProgramSource) -> Program:
    return load_program(source.entry, dict(source.params), source.base)


def _rows(name: str, rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        cells = [f"{row['plain_bytes'] / _MIB:>7.0f} {_percent(row['plain_ratio'])}"]
        cells += [f"{row[r]['peak_bytes'] / _MIB:>7.0f} {_percent(row[r]['ratio'])}" for r in REDUCTIONS]
        lines.append(
            f"{name:<5}rank {row['rank']:<4}{row['needed_bytes'] / _MIB:>8.0f}{''.join(f'{c:>20}' for c in cells)}"
        )
    return lines


def _percent(ratio: float) -> str:
    return f"{(ratio - 1) * 100:>+6.1f} %"


def _table(document: Mapping[str, Any]) -> list[str]:
    head = f"{'MiB':<14}{'needed':>8}{'plain PyTorch':>20}{'allreduce':>20}{'canonical':>20}"
    rows = [line for name, rows in document["layouts"].items() for line in _rows(name, rows)]
    goals = [f"  {'met' if met else 'MISSED':<8}{goal}" for goal, met in document["goals_met"].items()]
    return [head, *rows, *goals]


if __name__ == "__main__":
    main()

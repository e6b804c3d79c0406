"""What Holdfast adds to an undisturbed step, beside plain PyTorch that does the same work.

    python benchmarks/overhead.py [--spec SPEC] [--layouts 1x1 2x1 ...] [--rounds 7] [--steps 15] [--json FILE]

For each layout (pipelines x depth) three contenders are started: Holdfast with each reduction, and the peer. They run
in turns, one alone at a time; a ratio is taken in each round and the median of the rounds is told.
"""

import sys

sys.path.insert(0, sys.path.pop(0).rpartition("/")[0])  # in this folder `operator.py` would hide Python's own

import argparse
import contextlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.contenders import PeerRun
from benchmarks.harness.holdfast_run import HoldfastRun
from benchmarks.harness.layouts import LAYOUTS, Layout, check_layout, program_source
from benchmarks.harness.results import machine, median, parser, progress, rounded, tell
from benchmarks.harness.turns import Turn, Turns, measure

RATIO_MAX = 1.03
PEERS = {"1x1": "accumulation.py", "2x1": "ddp.py", "1x2": "pipelining.py", "2x2": "pipelining.py"}
PEER_NAMES = {
    "1x1": "one process, accumulation",
    "2x1": "DDP, no_sync",
    "1x2": "torch pipelining by hand",
    "2x2": "DDP x torch pipelining by hand",
}


def compare(layout: Layout, spec: Path, folder: Path, turns: Turns) -> dict[str, Any]:
    """One layout."""
    planned = layout.plan(spec, {})
    cuts = [stage.layers.start for stage in planned.pipelines[0].stages] + [planned.layer_count]
    script = PEERS[str(layout)]
    extra = ["--cuts", ",".join(map(str, cuts))] if script == "pipelining.py" else []
    with contextlib.ExitStack() as stack:
        ours = [
            stack.enter_context(
                HoldfastRun(layout.request(spec, reduction, {}), folder / reduction / "run", name=reduction)
            )
            for reduction in ("allreduce", "canonical")
        ]
        source = program_source(spec, {})
        peer = PeerRun(script, source, folder / "peer", nodes=layout.nodes, slots=layout.slots, arguments=extra)
        stack.callback(peer.close)
        measured = measure([*ours, peer], turns)
        for run in ours:
            check_layout(run.stop(), planned)
    return {
        "peer": PEER_NAMES[str(layout)],
        "peer_step_s": round(median([turn.step_s for turn in measured[peer.name]]), 4),
        "peer_cpu_s": round(median([turn.cpu_s for turn in measured[peer.name]]), 4),
        **{run.name: _against(measured[run.name], measured[peer.name]) for run in ours},
        "peer_samples_s": rounded([turn.step_s for turn in measured[peer.name]]),
    }


def _against(ours: list[Turn], theirs: list[Turn]) -> dict[str, Any]:
    ratios = [mine.step_s / other.step_s for mine, other in zip(ours, theirs, strict=True)]
    cpu_ratios = [mine.cpu_s / other.cpu_s for mine, other in zip(ours, theirs, strict=True)]
    return {
        "step_s": round(median([turn.step_s for turn in ours]), 4),
        "ratio": round(median(ratios), 4),
        "cpu_s": round(median([turn.cpu_s for turn in ours]), 4),
        "cpu_ratio": round(median(cpu_ratios), 4),
        "ratios": rounded(ratios),
        "cpu_ratios": rounded(cpu_ratios),
        "samples_s": rounded([turn.step_s for turn in ours]),
    }


def main() -> None:
    arguments = _arguments()
    turns = Turns(rounds=arguments.rounds, steps=arguments.steps)
    facts = machine()
    folder = Path(tempfile.mkdtemp(prefix="holdfast-overhead-"))
    found: dict[str, dict[str, Any]] = {}
    for layout in LAYOUTS:
        if str(layout) in arguments.layouts:
            found[str(layout)] = compare(layout, arguments.spec, folder / str(layout), turns)
            progress(_row(str(layout), found[str(layout)]))
    document = {
        "benchmark": "overhead",
        "machine": facts,
        "spec": str(arguments.spec),
        "rounds": turns.rounds,
        "steps_per_round": turns.steps,
        "layouts": found,
        "goals_met": {
            f"{name} within 3 % of its peer with allreduce": layout["allreduce"]["ratio"] <= RATIO_MAX
            for name, layout in found.items()
        },
    }
    tell(document, _table(document), arguments.json)
    shutil.rmtree(folder)


def _arguments() -> argparse.Namespace:
    names = [str(layout) for layout in LAYOUTS]
    made = parser(__doc__.splitlines()[0] if __doc__ else "")
    made.add_argument("--layouts", nargs="+", choices=names, default=names)
    made.add_argument("--rounds", type=int, default=7)
    made.add_argument("--steps", type=int, default=15, help="steps that count in each turn")
    return made.parse_args()


def _row(name: str, layout: Mapping[str, Any]) -> str:
    cells = [
        f"{layout[reduction]['step_s']:>9.3f} s {(layout[reduction]['ratio'] - 1) * 100:>+7.1f} %"
        f"{(layout[reduction]['cpu_ratio'] - 1) * 100:>+7.1f} %"
        for reduction in ("allreduce", "canonical")
    ]
    return f"{name:<5}{layout['peer']:<34}{layout['peer_step_s']:>8.3f} s{''.join(cells)}"


def _table(document: Mapping[str, Any]) -> list[str]:
    head = f"{'':<5}{'peer':<34}{'step':>10}{'allreduce: wall, CPU':>29}{'canonical: wall, CPU':>29}"
    rows = [_row(name, layout) for name, layout in document["layouts"].items()]
    goals = [f"  {'met' if met else 'MISSED':<8}{goal}" for goal, met in document["goals_met"].items()]
    return [head, *rows, *goals]


if __name__ == "__main__":
    main()

"""How long training stands still when a node is lost, drained or joins; a loss also under torchrun's elastic restart.

    python benchmarks/recovery.py [--spec SPEC] [--repeats 7] [--json FILE]

Time of a loss: from the SIGKILL of one of four nodes, at a random moment of a step, to the first step that those who
remain commit together. Ours and theirs alternate. Every number is the benchmark's own clock or a wall clock of this
machine.
"""

import sys

sys.path.insert(0, sys.path.pop(0).rpartition("/")[0])  # in this folder `operator.py` would hide Python's own

import argparse
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.contenders import ProgramSource, gaps_s
from benchmarks.harness.holdfast_run import HoldfastRun, RunRequest
from benchmarks.harness.layouts import program_source
from benchmarks.harness.processes import BenchmarkError, signal_group
from benchmarks.harness.results import machine, median, parser, progress, rounded, tell
from benchmarks.harness.torchrun_run import TorchrunRun, settings

NODES = 4
FIRST_STEP, LAST_STEP = 5, 8  # a fault comes within one of the steps after these
STEPS_AFTER = 4
# A job that has not resumed by then counts with that time, as a lower bound.
RESUME_S_MAX = 180.0
_PHASES = ("stop_s", "plan_s", "ready_s", "form_s", "move_s", "first_step_s")
Sample = dict[str, Any]


class Recovery:
    """The runs of one benchmark; each returns one sample."""

    def __init__(self, spec: Path, source: ProgramSource, folder: Path, draw: random.Random) -> None:
        self._spec, self._source, self._folder, self._draw = spec, source, folder, draw
        self._count = 0

    def holdfast_kill(self) -> Sample:
        with HoldfastRun(RunRequest(spec=self._spec, nodes=NODES), self._fresh("kill")) as run:
            step = self._draw.randint(FIRST_STEP, LAST_STEP)
            run.wait_step(step)
            step_s = median(gaps_s(run.commits()))
            victim = f"node-{self._draw.randrange(NODES)}"
            group = run.nodes()[victim]["agent_pid"]
            generation = run.generation
            time.sleep(self._draw.uniform(0.0, step_s))
            killed_s = time.time()
            signal_group(group, signal.SIGKILL)
            recovered = run.wait_recovered(generation, STEPS_AFTER)
            report = run.stop()
        number = recovered["fields"]["generation"]
        entry = next(g for g in report["generations"] if g["number"] == number)
        committed = max(step for step, time_s in run.commits() if time_s <= killed_s)
        return {
            "seconds": recovered["time_s"] - killed_s,
            "step_s": step_s,
            "step_after_s": entry["median_step_s"],
            "steps_lost": max(0, committed - entry["start_step"]),
            "redone_steps": entry["redone_steps"],
            "victim": victim,
            "layout_before": report["generations"][0]["layout"],
            "layout_after": entry["layout"],
            "phases_s": {k: entry[k] for k in _PHASES} | {"begun_after_kill_s": entry["begun_time_s"] - killed_s},
        }

    def torchrun_kill(self) -> Sample:
        with TorchrunRun(self._source, NODES, self._fresh("torchrun")) as run:
            step = self._draw.randint(FIRST_STEP, LAST_STEP)
            run.wait_step(NODES, step)
            before = next(i for i in run.incarnations() if i.ranks == NODES)
            step_s = median(gaps_s(before.commits))
            victim = self._draw.randrange(NODES)
            time.sleep(self._draw.uniform(0.0, step_s))
            killed_s = time.time()
            run.kill_agent(victim)
            try:
                resumed = run.wait_resumed(killed_s, STEPS_AFTER, RESUME_S_MAX)
            except BenchmarkError as error:
                progress(str(error))
                return {
                    "seconds": RESUME_S_MAX,
                    "resumed": False,
                    "step_s": step_s,
                    "steps_lost": None,
                    "victim": f"agent-{victim}",
                }
            committed = max(
                step for i in run.incarnations() for step, time_s in i.commits if i.begun_s < killed_s >= time_s
            )
            return {
                "seconds": resumed.commits[0][1] - killed_s,
                "resumed": True,
                "step_s": step_s,
                "step_after_s": median(gaps_s(resumed.commits)),
                "steps_lost": max(0, committed - resumed.resumed_step),
                "victim": f"agent-{victim}",
                "ranks_after": resumed.ranks,
                "workers_up_after_s": resumed.begun_s - killed_s,
            }

    def drain(self) -> Sample:
        step = self._draw.randint(FIRST_STEP, LAST_STEP)
        victim = self._draw.randrange(NODES)
        return self._reshape(NODES, f"drain node-{victim} at step {step}", "drain", victim=f"node-{victim}")

    def join(self) -> Sample:
        step = self._draw.randint(FIRST_STEP, LAST_STEP)
        return self._reshape(NODES - 1, f"join at step {step}", "join")

    def _reshape(self, nodes: int, fault: str, cause: str, **more: str) -> Sample:
        request = RunRequest(spec=self._spec, nodes=nodes, faults=(fault,))
        with HoldfastRun(request, self._fresh(cause)) as run:
            recovered = run.wait_recovered(1, STEPS_AFTER)
            report = run.stop()
        entry = next(g for g in report["generations"] if g["number"] == recovered["fields"]["generation"])
        assert entry["cause"] == cause, entry
        return {
            "seconds": entry["downtime_s"],
            "step_s": report["generations"][0]["median_step_s"],
            "step_after_s": entry["median_step_s"],
            "transfer_s": entry["move_s"],
            "transfer_bytes": sum(entry["bytes_by_source"].values()),
            "redone_steps": entry["redone_steps"],
            **more,
        }

    def _fresh(self, what: str) -> Path:
        self._count += 1
        return self._folder / f"{self._count:03d}-{what}"


def main() -> None:
    arguments = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="holdfast-recovery-"))
    facts = machine()
    recovery = Recovery(arguments.spec, program_source(arguments.spec, {}), folder, random.Random(arguments.seed))
    runs: dict[str, Callable[[], Sample]] = {
        "holdfast_kill": recovery.holdfast_kill,
        "torchrun_kill": recovery.torchrun_kill,
        "drain": recovery.drain,
        "join": recovery.join,
    }
    samples: dict[str, list[Sample]] = {name: [] for name in runs}
    for repeat in range(arguments.repeats):
        for name, run in runs.items():
            sample = run()
            samples[name].append(sample)
            took = f"{sample['seconds']:.3f} s, a step {sample['step_s']:.3f} s"
            progress(f"{repeat + 1}/{arguments.repeats} {name}: {took}")
    document = {"benchmark": "recovery", "machine": facts, "spec": str(arguments.spec), **_summary(samples)}
    tell(document, _table(document), arguments.json)
    shutil.rmtree(folder)


def _arguments() -> argparse.Namespace:
    made = parser(__doc__.splitlines()[0] if __doc__ else "")
    made.add_argument("--repeats", type=int, default=7)
    made.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"), help="of victims and moments")
    return made.parse_args()


def _summary(samples: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    def of(name: str, key: str) -> list[float]:
        return [sample[key] for sample in samples[name] if sample[key] is not None]

    def mid(name: str, key: str) -> float:
        return round(median(of(name, key)), 4)

    ours_s, theirs_s = mid("holdfast_kill", "seconds"), mid("torchrun_kill", "seconds")
    step_s = mid("holdfast_kill", "step_s")
    drain = [s["seconds"] / s["step_s"] for s in samples["drain"]]
    join = [(s["seconds"] - s["transfer_s"]) / s["step_s"] for s in samples["join"]]
    return {
        "ours_s": ours_s,
        "torchrun_s": theirs_s,
        "ratio": round(theirs_s / ours_s, 2),
        "step_s": step_s,
        "ours_minus_step_s": round(median([s["seconds"] - s["step_s"] for s in samples["holdfast_kill"]]), 4),
        "ours_range_s": rounded([min(of("holdfast_kill", "seconds")), max(of("holdfast_kill", "seconds"))]),
        "torchrun_range_s": rounded([min(of("torchrun_kill", "seconds")), max(of("torchrun_kill", "seconds"))]),
        "torchrun_never_resumed": sum(not sample["resumed"] for sample in samples["torchrun_kill"]),
        "torchrun_step_s": mid("torchrun_kill", "step_s"),
        "steps_lost": {name: of(name, "steps_lost") for name in ("holdfast_kill", "torchrun_kill")},
        "drain_downtime_s": mid("drain", "seconds"),
        "drain_downtime_steps": round(median(drain), 3),
        "join_downtime_s": mid("join", "seconds"),
        "join_transfer_s": mid("join", "transfer_s"),
        "join_downtime_less_transfer_steps": round(median(join), 3),
        "goals_met": {
            "under 1 s plus a step": ours_s < 1.0 + step_s,
            "10 times faster than torchrun": theirs_s >= 10 * ours_s,
            "drain under a step": median(drain) < 1.0,
            "join under a step plus the transfer": median(join) < 1.0,
            "no committed step lost": not any(of("holdfast_kill", "steps_lost")),
        },
        "torchrun_settings": settings(),
        "samples": dict(samples),
    }


def _table(document: Mapping[str, Any]) -> list[str]:
    d = document
    low, high = d["ours_range_s"]
    their_low, their_high = d["torchrun_range_s"]
    lines = [
        f"{'kill -9 of one of four nodes, to the next step':<50}{'median':>10}{'range':>20}{'steps lost':>14}",
        f"{'  Holdfast':<50}{d['ours_s']:>8.2f} s{f'{low:.2f} to {high:.2f} s':>20}"
        f"{sum(d['steps_lost']['holdfast_kill']):>14}",
        f"{'  torchrun':<50}{d['torchrun_s']:>8.2f} s{f'{their_low:.2f} to {their_high:.2f} s':>20}"
        f"{sum(d['steps_lost']['torchrun_kill']):>14}",
        f"  {d['ratio']:.1f} times faster; {d['ours_minus_step_s']:.2f} s besides one step of {d['step_s']:.2f} s",
        f"drain: {d['drain_downtime_s']:.2f} s without a step, {d['drain_downtime_steps']:.2f} of a step",
        f"join: {d['join_downtime_s']:.2f} s without a step, of which the transfer {d['join_transfer_s']:.2f} s; "
        f"the rest is {d['join_downtime_less_transfer_steps']:.2f} of a step",
    ]
    return lines + [f"  {'met' if met else 'MISSED':<8}{goal}" for goal, met in d["goals_met"].items()]


if __name__ == "__main__":
    main()

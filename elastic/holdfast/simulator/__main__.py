"""Play seeds in several processes and say what came of it: `python -m holdfast.simulator --seeds 1000`."""

import json
import os
import subprocess
import sys
import time
from collections import Counter, deque
from pathlib import Path
from typing import Annotated

import typer

from holdfast.simulator.batch import Batch, play_seeds, trace_of
from holdfast.simulator.coverage import DECISIONS, EVENTS, STATES

_SEEDS_A_PROCESS = 400

app = typer.Typer(add_completion=False)


@app.command()
def main(
    seeds: Annotated[int, typer.Option(min=1, help="how many seeds to play")] = 1000,
    first: Annotated[int, typer.Option("--from", min=0, help="the first of them")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="processes at a time")] = os.cpu_count() or 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="write all figures to this file")] = None,
    stories: Annotated[int, typer.Option(min=0, help="failures to tell in full")] = 3,
    child: Annotated[bool, typer.Option(hidden=True)] = False,
    trace: Annotated[bool, typer.Option(help="only print the hash of each seed's transcript")] = False,
) -> None:
    """Each seed is a job, its faults and an order of events. Exit code 1 if a promise was broken."""
    chosen = range(first, first + seeds)
    if trace:
        for seed in chosen:
            typer.echo(f"{seed} {trace_of(seed)}")
        return
    if child:
        typer.echo(json.dumps(play_seeds(chosen).to_json()))
        return
    begun_s = time.monotonic()
    batch = _in_processes(chosen, jobs)
    took_s = time.monotonic() - begun_s
    typer.echo(_told(batch, took_s, stories))
    if json_file is not None:
        report = batch.to_json() | {"took_s": took_s, "first_seed": first, "jobs": jobs}
        json_file.write_text(json.dumps(report, indent=1), encoding="utf-8")
    if batch.broken:
        raise typer.Exit(1)


def _in_processes(chosen: range, jobs: int) -> Batch:
    """Seeds go to processes of their own, some hundred each; their sums come back as JSON."""
    size = max(1, min(_SEEDS_A_PROCESS, -(-len(chosen) // jobs)))
    parts = deque(chosen[at : at + size] for at in range(0, len(chosen), size))
    running: deque[subprocess.Popen[str]] = deque()
    batch = Batch()
    while parts or running:
        while parts and len(running) < jobs:
            running.append(_start(parts.popleft()))
        output, _ = running[0].communicate()
        if running.popleft().returncode:
            raise RuntimeError(f"a process of the simulator ended without a result: {output[-2000:]}")
        batch.add(Batch.from_json(json.loads(output)))
        if sys.stderr.isatty():
            typer.echo(f"{batch.seeds} of {len(chosen)} seeds, {len(batch.broken)} broken", err=True)
    return batch


def _start(part: range) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "holdfast.simulator", "--child", "--from", str(part[0]), "--seeds", str(len(part))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _told(batch: Batch, took_s: float, stories: int) -> str:
    coverage = batch.coverage
    pairs, decisions = len(EVENTS) * len(STATES), len(DECISIONS)
    lines = [
        f"{batch.seeds} seeds in {took_s:.1f} s ({batch.seeds / took_s:.1f} a second), {batch.actions} actions, "
        f"{batch.simulated_s / 3600:.1f} simulated hours",
        f"{batch.steps} steps committed, {batch.redone_steps} redone; jobs {_counts(batch.results)}",
        f"faults: {_counts(batch.faults)}",
        f"decisions ({decisions - len(coverage.unseen_decisions)} of {decisions}): {_counts(coverage.decisions)}",
        f"  never: {', '.join(coverage.unseen_decisions) or 'none'}",
        f"decisions by the state they were taken in: {len(coverage.changes)}",
        f"events in states ({pairs - len(coverage.unseen_pairs)} of {pairs}); "
        f"never: {', '.join(coverage.unseen_pairs) or 'none'}",
        f"broken promises: {len(batch.broken)}",
    ]
    for broken in batch.broken:
        lines.append(f"  seed {broken.seed}: {broken.promise}")
        lines.append(f"    again: python -m holdfast.simulator --from {broken.seed} --seeds 1")
        lines.append(f"    shrunk to: {broken.shrunk} (order {broken.shrunk_seed})")
    lines += [f"\n{broken.shrunk_story}" for broken in batch.broken[:stories]]
    return "\n".join(lines)


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


if __name__ == "__main__":
    app()

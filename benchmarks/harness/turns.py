"""Measures contenders in turns: all are started and warmed up, then one at a time runs while the others are stopped
(SIGSTOP), so that what disturbs the machine disturbs all alike."""

import contextlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.contenders import Contender, gaps_s, pause, resume
from benchmarks.harness.processes import wait_for
from benchmarks.harness.results import median

_STEP_S_MAX = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """How long: `rounds` turns of each, in each of which `steps` steps count."""

    rounds: int
    steps: int
    warm_up_steps: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What a step took in one turn. The processor time is of all processes that compute: on a machine with other work
    to do it says more than the wall clock."""

    step_s: float  # median
    cpu_s: float  # mean


def measure(contenders: Sequence[Contender], turns: Turns, seed: int = 0) -> Mapping[str, list[Turn]]:
    """The turns of each contender, by name; the order within a round is drawn anew."""
    for contender in contenders:
        _run(contender, turns.warm_up_steps)
    order = list(contenders)
    draw = random.Random(seed)
    found: dict[str, list[Turn]] = {contender.name: [] for contender in contenders}
    for _ in range(turns.rounds):
        draw.shuffle(order)
        for contender in order:
            found[contender.name].append(_run(contender, turns.steps))
    return found


def _run(contender: Contender, steps: int) -> Turn:
    """Let it run alone for `steps` steps, after the one in which it was stopped before."""
    before = len(contender.commits())
    resume(contender)
    _wait(contender, before + 1)
    cpu_begun_s = _cpu_s(contender)
    _wait(contender, before + 1 + steps)
    cpu_ended_s = _cpu_s(contender)
    pause(contender)
    seconds = gaps_s(contender.commits()[before:])[:steps]
    return Turn(step_s=median(seconds), cpu_s=(cpu_ended_s - cpu_begun_s) / steps)


def _wait(contender: Contender, commits: int) -> None:
    wait_for(
        f"commit {commits} of {contender.name}",
        lambda: len(contender.commits()) >= commits,
        contender.check,
        120.0 + _STEP_S_MAX * commits,
    )


def _cpu_s(contender: Contender) -> float:
    """Processor time that all threads of its processes have had."""
    total_ns = 0
    for pid in contender.pids():
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # a thread that has ended
                total_ns += int(path.read_text().split()[0])
    return total_ns / 1e9

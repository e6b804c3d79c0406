"""Measures contenders in turns: all are started and warmed up, then one at a time runs while the others are stopped
(SIGSTOP), so that what disturbs the machine disturbs all alike."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


def measure(contenders: Sequence[Contender], turns: Turns, seed: int = 0) -> Mapping[str, list[float]]:
    """Median step time of each contender in each round, by name; the order within a round is drawn anew."""
    for contender in contenders:
        _run(contender, turns.warm_up_steps)
    order = list(contenders)
    draw = random.Random(seed)
    found: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(turns.rounds):
        draw.shuffle(order)
        for contender in order:
            found[contender.name].append(median(_run(contender, turns.steps)))
    return found


def _run(contender: Contender, steps: int) -> list[float]:
    """Let it run alone; the times of `steps` steps, not of the one in which it was stopped before."""
    before = len(contender.commits())
    wanted = before + 1 + steps
    resume(contender)
    wait_for(
        f"{steps} steps of {contender.name}",
        lambda: len(contender.commits()) >= wanted,
        contender.check,
        120.0 + _STEP_S_MAX * steps,
    )
    pause(contender)
    return gaps_s(contender.commits()[before:])[:steps]

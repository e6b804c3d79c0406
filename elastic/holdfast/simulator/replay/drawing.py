"""A picture of a replay: nodes, throughput and what happened, over time. Needs the extra [plots]."""

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

from holdfast.errors import UserError
from holdfast.simulator.replay.replaying import Outcome
from holdfast.simulator.replay.trace import Trace

_WINDOW_S = 300.0
_POINTS = 400


def draw(trace: Trace, outcomes: Sequence[Outcome], path: Path) -> None:
    """Write a PNG. Raises: UserError: matplotlib is not installed, or the file cannot be written."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("--png: needs matplotlib; install holdfast[plots]") from error
    figure = Figure(figsize=(11, 7), layout="constrained")
    nodes, rates, happenings = figure.subplots(3, 1, sharex=True, height_ratios=(2, 3, 1.5))
    stretches = list(trace.stretches())
    nodes.stairs([s.nodes for s in stretches], [0, *(s.stop_s / 3600 for s in stretches)], label="there", color="0.6")
    last = outcomes[-1]
    if last.happenings:
        edges = [*(h.at_s / 3600 for h in last.happenings), trace.duration_s / 3600]
        nodes.stairs([h.used for h in last.happenings], edges, label=f"used by {last.policy}")
    nodes.set(ylabel="nodes", title=f"{trace.name}: {trace.mean_nodes:.1f} nodes on average")
    nodes.legend(loc="lower right")
    for outcome in outcomes:
        times, means = _smoothed(outcome)
        rates.plot([at_s / 3600 for at_s in times], means, label=f"{outcome.policy} {outcome.goodput:.1%}", linewidth=1)
    rates.set(ylabel=f"samples/s, mean of {_WINDOW_S / 60:.0f} min")
    rates.legend(loc="lower right", fontsize="small", ncols=2)
    for row, outcome in enumerate(outcomes):
        spans = [
            (h.at_s / 3600, max(h.stall_s, trace.duration_s / 2000) / 3600) for h in outcome.happenings if h.stall_s
        ]
        happenings.broken_barh(spans, (row - 0.4, 0.8))
    happenings.set(xlabel="hours", yticks=range(len(outcomes)), yticklabels=[outcome.policy for outcome in outcomes])
    happenings.tick_params(axis="y", labelsize="small")
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as error:
        raise UserError(f"--png {path}: {error}; name a file that can be written") from error


def _smoothed(outcome: Outcome) -> tuple[list[float], list[float]]:
    end_s = outcome.times_s[-1]
    width_s = min(_WINDOW_S, end_s)
    count = min(_POINTS, max(2, bisect_left(outcome.times_s, end_s)))
    starts = [(end_s - width_s) * number / (count - 1) for number in range(count)]
    means = [outcome.within(at, at + width_s) / width_s if width_s else 0.0 for at in starts]
    return [at + width_s / 2 for at in starts], means

"""What a trace teaches about a job: how many nodes to ask for, which minimum, how often to write a checkpoint, how many
copies to keep in RAM."""

from collections.abc import Mapping
from math import sqrt

from holdfast.simulator.replay.trace import Trace
from holdfast.simulator.replay.yields import NOTHING, Layouts

# More nodes are worth asking for while the last one yields at least this share of what a node yields on average.
_WORTHWHILE = 0.25
# Of the time, as many nodes as the minimum should be there.
_THERE = 0.99
# Of the ideal, what one more copy in RAM should yield.
_COPY_YIELDS = 0.001


def advise(trace: Trace, layouts: Layouts, save_s: float) -> list[str]:
    """A sentence each. `save_s`: what writing a checkpoint takes away from training."""
    return [_wanted(trace, layouts), _minimum(trace, layouts), _checkpoints(trace, save_s)]


def advise_copies(goodputs: Mapping[int, float]) -> str:
    """`goodputs`: by `snapshots.copies`, ascending."""
    counts = list(goodputs)
    best = counts[0]
    for count in counts[1:]:
        if goodputs[count] >= goodputs[best] + _COPY_YIELDS:
            best = count
    told = ", ".join(f"{goodputs[count]:.1%} with {count}" for count in counts)
    return f"snapshots.copies: {best}; the coordinator reaches {told}"


def wanted_nodes(most: int, layouts: Layouts) -> int:
    """The number of nodes up to `most` beyond which more hardly help."""
    best, rate = 0, 0.0
    for nodes in range(1, most + 1):
        layout = layouts.best(nodes)
        if layout is NOTHING or layout.nodes != nodes:
            continue
        if not best or (layout.rate - rate) / (nodes - best) >= _WORTHWHILE * layout.rate / nodes:
            best, rate = nodes, layout.rate
    return best


def checkpoint_every_s(failure_s: float, save_s: float) -> float:
    """From one checkpoint to the next: what is saved and what is lost on a failure balance (Young, 1974)."""
    return sqrt(2 * failure_s * save_s)


def _wanted(trace: Trace, layouts: Layouts) -> str:
    nodes = wanted_nodes(trace.most_nodes, layouts)
    if not nodes:
        return f"nodes: at most {trace.most_nodes} were there, and no known layout needs so few; ask for more"
    best = layouts.best(nodes)
    more = f"beyond it a node adds little (there were up to {trace.most_nodes})"
    return f"nodes.desired: {nodes} ({best}, {best.rate:.1f} samples/s); {more}"


def _minimum(trace: Trace, layouts: Layouts) -> str:
    least = next((nodes for nodes in range(1, trace.most_nodes + 1) if layouts.best(nodes) is not NOTHING), None)
    if least is None:
        return "nodes.min: no layout of the model fits so few nodes"
    short_s = sum(stretch.seconds for stretch in trace.stretches() if stretch.nodes < least)
    share = 1 - short_s / trace.duration_s
    hint = "" if share >= _THERE else "; add on-demand nodes, or the job waits for the rest"
    return f"nodes.min: {least}, the fewest that hold the model; there were as many for {share:.1%} of the time{hint}"


def _checkpoints(trace: Trace, save_s: float) -> str:
    moments = sum(1 for change in trace.changes if change.left)
    if not moments:
        return "checkpoints.every: nobody was lost; as seldom as you could bear to lose work"
    failure_s = trace.duration_s / moments
    every_s = checkpoint_every_s(failure_s, save_s)
    largest = max(len(change.left) for change in trace.changes)
    return (
        f"checkpoints.every: {every_s:.0f} s of steps if every loss cost one (every {failure_s:.0f} s, up to "
        f"{largest} nodes at once, {save_s:g} s to save); with copies in RAM only losing all holders of a layer does"
    )

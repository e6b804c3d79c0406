"""Policies that need no more than a table: the ideal, machines of one's own, and reacting at once."""

from dataclasses import dataclass

from holdfast.simulator.replay.costs import ParcaeCosts
from holdfast.simulator.replay.model import Model
from holdfast.simulator.replay.replaying import Scene, Turn
from holdfast.simulator.replay.yields import NOTHING, Layout, Layouts

LOSS, JOIN, START, SAVED = "loss", "join", "start", "checkpoint"


@dataclass(slots=True)
class Ideal:
    """The best layout for the nodes present at every moment, with free transitions: what all others are a share of."""

    layouts: Layouts
    name: str = "ideal"

    def decide(self, scene: Scene) -> Turn:
        best = self.layouts.best(len(scene.present))
        return Turn(rate=best.rate, layout=str(best), used=best.nodes, stalls={})


@dataclass(slots=True)
class OnDemand:
    """As many nodes as the trace has on average, which nobody takes away; what they yield costs the other price."""

    layouts: Layouts
    nodes: int
    name: str = "on-demand"

    def decide(self, scene: Scene) -> Turn:
        best = self.layouts.best(self.nodes)
        return Turn(rate=best.rate, layout=str(best), used=best.nodes, stalls={} if scene.now_s == 0 else None)


class Reactive:
    """Checkpoint and restart at the throughput-optimal plan after every change (reactive baseline of Parcae's
    simulator, NSDI'24).

    Assumes that every change, also of a node that was not used, restarts the job: process groups and model are built
    anew, a checkpoint is saved and loaded (14 s), and the whole model travels over one link, stage after stage. No
    committed work is lost. A change that finds a restart going on costs a restart of the same kind besides.
    """

    def __init__(self, layouts: Layouts, model: Model, costs: ParcaeCosts) -> None:
        self.name = "checkpoint"
        self._layouts, self._model, self._costs = layouts, model, costs

    def decide(self, scene: Scene) -> Turn:
        assert scene.change is not None
        best = self._layouts.best(len(scene.present))
        if best is NOTHING:
            return Turn(rate=0.0, layout="-", stalls={})
        grows = bool(scene.change.joined)
        restart_s = self._costs.restart_s(best.depths, newcomers=grows)
        stalls = {JOIN if grows else LOSS: restart_s}
        if scene.now_s > 0:
            stalls[SAVED] = self._costs.migration.checkpoint_ms / 1000
        stalls["transfer"] = self._costs.link_s(self._model.state_bytes)
        if scene.busy_s > 0:
            stalls["restart again"] = restart_s
        size = self._model.state_bytes
        return _turn(best, stalls, moved_bytes=0, remote_bytes=size * len(best.depths))


def _turn(layout: Layout, stalls: dict[str, float], *, moved_bytes: int, remote_bytes: int) -> Turn:
    return Turn(
        rate=layout.rate,
        layout=str(layout),
        used=layout.nodes,
        stalls=stalls,
        moved_bytes=moved_bytes,
        remote_bytes=remote_bytes,
    )

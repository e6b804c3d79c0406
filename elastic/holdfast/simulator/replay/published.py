"""Varuna, Bamboo and Oobleck, as far as their papers tell how they react; with the same constants for the same acts.

None of them is replayed from its code. What each is taken to do, and what it is spared, stands at its class.
"""

from dataclasses import dataclass, replace
from math import ceil

from holdfast.model.ids import NodeId
from holdfast.simulator.replay.baselines import JOIN, LOSS, START
from holdfast.simulator.replay.costs import ParcaeCosts
from holdfast.simulator.replay.floor import Floor, rebuild
from holdfast.simulator.replay.model import Model
from holdfast.simulator.replay.replaying import Scene, Turn
from holdfast.simulator.replay.yields import NOTHING, Layout, Layouts, describe

# Of Varuna, from one checkpoint to the next.
_STEPS = 16
# Of Bamboo, what redundant computation costs.
_REDUNDANT = 0.1
# Of Oobleck, among so many of the fastest layouts one has two pipelines.
_SEARCHED = 64


@dataclass(frozen=True, slots=True)
class Setting:
    """What all of them run with."""

    layouts: Layouts
    model: Model
    costs: ParcaeCosts


class Varuna:
    """Job morphing (Athlur et al., EuroSys'22): checkpoints to cloud storage, and after a change of
    membership a restart of all processes from the last one, at the best D x P for the nodes there are.

    Assumes: a checkpoint every 16 steps, written in the background at no cost; a loss throws away what came after it;
    newcomers, and lost nodes that were not used, are taken note of at the next checkpoint only; a restart builds groups
    as with newcomers, and each node reads its stage from storage at the link's speed, D replicas one after the other.
    """

    def __init__(self, setting: Setting) -> None:
        self.name = "varuna"
        self._setting = setting
        self._now = NOTHING
        self._members: frozenset[NodeId] = frozenset()
        self._since_s = 0.0  # when the current layout began to run

    def decide(self, scene: Scene) -> Turn:
        best = self._setting.layouts.best(len(scene.present))
        if self._now is not NOTHING and self._members <= scene.present.keys():
            if best.rate <= self._now.rate:
                return self._turn(None)
            boundary_s = self._next_checkpoint_s(scene.now_s)
            if boundary_s > scene.now_s + 1e-6:
                return self._turn(boundary_s)
            return self._restart(best, scene, 0.0, JOIN)
        ran_s = max(0.0, scene.now_s - self._since_s)
        lost_s = ran_s % self._period_s if self._now is not NOTHING else 0.0
        return self._restart(best, scene, lost_s, START if self._now is NOTHING else LOSS)

    @property
    def _period_s(self) -> float:
        return _STEPS * self._setting.layouts.global_batch / self._now.rate

    def _next_checkpoint_s(self, now_s: float) -> float:
        """Now, if one is due."""
        periods = max(1, ceil((now_s - self._since_s) / self._period_s - 1e-6))
        return self._since_s + periods * self._period_s

    def _restart(self, best: Layout, scene: Scene, lost_s: float, cause: str) -> Turn:
        again = lost_s * self._now.rate / best.rate if best.rate else 0.0
        self._now = best
        if best is NOTHING:
            self._members = frozenset()
            return Turn(rate=0.0, layout="-", stalls={})
        costs, size = self._setting.costs, self._setting.model.state_bytes
        self._members = frozenset(list(scene.present)[: best.nodes])
        read_bytes = max(map(self._setting.model.size, self._setting.model.cuts(best.depths[0]))) * len(best.depths)
        stalls = {cause: costs.start_s(best.depths), "transfer": costs.link_s(read_bytes), "redone": again}
        self._since_s = scene.now_s + sum(stalls.values())
        return Turn(
            rate=best.rate,
            layout=str(best),
            used=best.nodes,
            stalls=stalls,
            remote_bytes=size * len(best.depths),
        )

    def _turn(self, again_s: float | None) -> Turn:
        return Turn(rate=self._now.rate, layout=str(self._now), used=self._now.nodes, again_s=again_s)


class Bamboo:
    """Redundant computation (Thorpe et al., NSDI'23): every node also holds the layers of the next
    stage of its pipeline and computes their forward pass in the bubble; when that one is lost it takes over.

    Assumes: pipelines of one fixed depth, `depth`, deep enough that two stages fit where one had to; a tenth of the
    throughput for what is computed twice; a takeover makes groups anew and nothing else, and from then on the pipeline
    is as slow as one of half the depth, and all others with it. Once newcomers can fill every hole, or make up another
    pipeline, or when two neighbours are lost, all is rebuilt: groups as with newcomers, and a stage travels. No step in
    flight is charged, nor state that is lost with two neighbours.
    """

    def __init__(self, setting: Setting, depth: int) -> None:
        self.name = "bamboo"
        self._setting, self._depth = setting, depth
        self._floor = Floor()

    def decide(self, scene: Scene) -> Turn:
        present = scene.present
        holes = {
            (number, stage)
            for number, line in enumerate(self._floor.pipelines)
            for stage, node in enumerate(line)
            if node not in present
        }
        spares = len(present) - sum(node in present for node in self._floor.members)
        split = any((number, (stage + 1) % self._depth) in holes for number, stage in holes)
        can_mend = bool(holes) and spares >= len(holes)
        if not self._floor.pipelines or split or can_mend or spares >= self._depth + len(holes):
            return self._rebuild(scene)
        turn = self._turn(len(self._floor.pipelines), is_slow=bool(holes))
        lost = scene.change is not None and any(node in self._floor.members for node in scene.change.left)
        if not lost:
            return turn
        pause_s = self._setting.costs.regroup_s(self._floor.depths, newcomers=False)
        return replace(turn, stalls={LOSS: pause_s})

    def _rebuild(self, scene: Scene) -> Turn:
        costs, model = self._setting.costs, self._setting.model
        pipelines = self._pipelines(len(scene.present))
        if not pipelines:
            self._floor = Floor()
            return Turn(rate=0.0, layout="-", stalls={})
        is_first = not self._floor.pipelines
        members = self._floor.members
        spares = [node for node in scene.present if node not in members]
        depths = (self._depth,) * pipelines
        self._floor, move = rebuild(self._floor, depths, _gone(self._floor, scene), spares, model)
        stage_s = 0.0 if is_first else costs.link_s(max(move.received_bytes, move.sent_bytes))
        turn = self._turn(pipelines, is_slow=False)
        stalls = {START if is_first else JOIN: costs.start_s(depths), "transfer": stage_s}
        return replace(turn, stalls=stalls, moved_bytes=0 if is_first else move.moved_bytes)

    def _pipelines(self, nodes: int) -> int:
        """As many as there are nodes for, and the table knows."""
        for pipelines in range(nodes // self._depth, 0, -1):
            if self._rate(pipelines, self._depth):
                return pipelines
        return 0

    def _turn(self, pipelines: int, *, is_slow: bool) -> Turn:
        rate = self._rate(pipelines, self._depth // 2 if is_slow else self._depth) * (1 - _REDUNDANT)
        layout = describe((self._depth,) * pipelines) + (" (slow)" if is_slow else "")
        return Turn(rate=rate, layout=layout, used=pipelines * self._depth)

    def _rate(self, pipelines: int, depth: int) -> float:
        layout = self._setting.layouts.of((depth,) * pipelines)
        return layout.rate if layout is not None else 0.0


class Oobleck:
    """Pipeline templates (Jang et al., SOSP'23): at least f + 1 pipelines of different depth that use
    every node they can, and at once after a change others made of the same templates, without a restart.

    Assumes: f = 1; the fastest such layout after every change that touches it or betters it, whatever that takes;
    layers are copied from a surviving replica, all at once, or read from storage where none is left; groups and stages
    are made anew, as with newcomers where some take part.
    """

    def __init__(self, setting: Setting) -> None:
        self.name = "oobleck"
        self._setting = setting
        self._floor, self._now = Floor(), NOTHING

    def decide(self, scene: Scene) -> Turn:
        setting = self._setting
        near = setting.layouts.near(len(scene.present), _SEARCHED)
        best = next((one for one in near if len(one.depths) > 1), near[0] if near else NOTHING)
        if best is NOTHING:
            self._floor, self._now = Floor(), NOTHING
            return Turn(rate=0.0, layout="-", stalls={})
        if best == self._now and self._floor.members <= scene.present.keys():
            return Turn(rate=best.rate, layout=str(best), used=best.nodes)
        spares = [node for node in scene.present if node not in self._floor.members]
        floor, move = rebuild(self._floor, best.depths, _gone(self._floor, scene), spares, setting.model)
        is_first = self._now is NOTHING
        seconds = (
            setting.costs.start_s(best.depths)
            if is_first
            else setting.costs.restart_s(best.depths, newcomers=move.newcomers > 0)
        )
        self._floor, self._now = floor, best
        stalls = {START if is_first else JOIN if move.newcomers else LOSS: seconds}
        if not is_first:
            stalls["transfer"] = setting.costs.link_s(max(move.received_bytes, move.sent_bytes, move.absent_bytes))
        return Turn(
            rate=best.rate,
            layout=str(best),
            used=best.nodes,
            stalls=stalls,
            moved_bytes=0 if is_first else move.moved_bytes,
            remote_bytes=0 if is_first else move.absent_bytes,
        )


def _gone(floor: Floor, scene: Scene) -> list[NodeId]:
    return [node for node in floor.members if node not in scene.present]

"""Holdfast's own policy: pipelines of different depth, reshaped in place when that is worth what it takes."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from holdfast.model.ids import NodeId
from holdfast.planner.hazard import Outlook
from holdfast.planner.worth import Option, worth
from holdfast.simulator.replay.baselines import JOIN, LOSS, START
from holdfast.simulator.replay.costs import Costs
from holdfast.simulator.replay.floor import Floor, Move, rebuild
from holdfast.simulator.replay.model import Model
from holdfast.simulator.replay.replaying import Scene, Turn
from holdfast.simulator.replay.yields import NOTHING, Depths, Layout, Layouts

# So many of the fastest layouts are weighed, for all nodes and for those left of the last layout; fewer if many.
_WEIGHED, _WEIGHED_NODES = 12, 400
_AGAIN_S = 60.0


def throughput(option: Option, loss_per_s: float) -> float:
    """The worth of a layout to who reacts to every change at once, whatever that takes."""
    return option.rate


@dataclass(frozen=True, slots=True)
class _Plan:
    layout: Layout
    floor: Floor
    move: Move
    seconds: float


class Holdfast:
    """Reacts to every change with the layout of most worth (`planner.worth`), given what nodes have done so far
    (`planner.hazard`); to stay as it is, with newcomers as spares, is one of them.

    Survivors keep their layers; only what a stage lacks travels, from whoever has it, to all who lack some at once. A
    change that comes during a transition begins the next at once, and what the first took is lost.
    """

    def __init__(
        self,
        layouts: Layouts,
        model: Model,
        costs: Costs,
        *,
        name: str = "holdfast",
        worth: Callable[[Option, float], float] = worth,
    ) -> None:
        self.name, self._worth = name, worth
        self._layouts, self._model, self._costs = layouts, model, costs
        self._outlook = Outlook()
        self._layout, self._floor = NOTHING, Floor()
        self._known_s = 0.0

    def decide(self, scene: Scene) -> Turn:
        self._learn(scene)
        gone = [node for node in scene.change.left if node in self._floor.members] if scene.change is not None else []
        ready, warm_s = self._ready(scene)
        loss_per_s = self._outlook.loss_per_s(len(ready), len(scene.present))
        stays = self._layout is not NOTHING and not gone
        chosen, faster = self._best(
            scene, gone, ready, loss_per_s, Option(self._layout.rate, scene.busy_s) if stays else None
        )
        if chosen is not None:
            return self._take(chosen, warm_s)
        if not stays:
            self._layout, self._floor = NOTHING, Floor()
            return replace(self._turn(again_s=warm_s), stalls={})
        # What does not pay now may once it has been quiet for a while.
        return self._turn(again_s=_first(scene.now_s + _AGAIN_S if faster else None, warm_s))

    def _best(
        self, scene: Scene, gone: Sequence[NodeId], ready: Sequence[NodeId], loss_per_s: float, stay: Option | None
    ) -> tuple[_Plan | None, bool]:
        """(the plan of most worth, None to stay; whether a faster layout than the one that stands can be had)."""
        found: _Plan | None = None
        most = self._worth(stay, loss_per_s) if stay is not None else -1.0
        members = self._floor.members
        spares = [node for node in ready if node not in members]
        wanted = self._wanted(gone, len(ready), len(spares))
        for layout in wanted:
            if stay is not None and layout == self._layout:
                continue
            if self._worth(Option(layout.rate, self._least_s(scene, layout, gone, len(ready))), loss_per_s) <= most:
                continue
            floor, move = rebuild(self._floor, layout.depths, gone, spares, self._model)
            seconds = self._seconds(scene, move)
            value = self._worth(Option(layout.rate, seconds), loss_per_s)
            if value > most:
                found, most = _Plan(layout, floor, move, seconds), value
        return found, any(layout.rate > self._layout.rate for layout in wanted)

    def _wanted(self, gone: Sequence[NodeId], ready: int, spares: int) -> list[Layout]:
        """Layouts to weigh: close to the one that stands first, then the fastest for all nodes and for those left."""
        count = max(1, min(_WEIGHED, _WEIGHED_NODES // max(1, ready)))
        close = [self._layouts.of(depths) for depths in _close(self._floor, gone, spares)]
        fast = [*self._layouts.near(ready - spares, count), *self._layouts.near(ready, count)]
        return list(dict.fromkeys([*(layout for layout in close if layout is not None), *fast]))

    def _seconds(self, scene: Scene, move: Move) -> float:
        if self._layout is NOTHING:
            return self._costs.start_s(move.after)
        noticed = scene.change is not None and scene.change.notice_s > 0
        step_s = self._layouts.global_batch / self._layout.rate
        return self._costs.seconds(move, step_s=step_s, noticed=noticed)

    def _least_s(self, scene: Scene, layout: Layout, gone: Sequence[NodeId], ready: int) -> float:
        """As if nothing had to travel."""
        left = self._layout.nodes - len(gone)
        nothing = Move(
            before=self._layout.depths,
            after=layout.depths,
            newcomers=max(0, layout.nodes - left),
            gone=len(gone),
            received_bytes=0,
            sent_bytes=0,
            moved_bytes=0,
            absent_bytes=0,
            is_resized=False,
        )
        return self._seconds(scene, nothing)

    def _ready(self, scene: Scene) -> tuple[list[NodeId], float | None]:
        """(members and those who are warm, longest there first; when the next one will be).

        Who has lasted, lasts (Lindy). Nodes come in order of time.
        """
        warm_up_s = self._costs.warm_up_s if scene.now_s > 0 else 0.0
        if not warm_up_s:
            return list(scene.present), None
        # A hair's breadth for sums of floats: who asked for this moment is ready in it.
        by_s = scene.now_s - warm_up_s + 1e-9
        members = self._floor.members
        ready = [node for node, since_s in scene.present.items() if since_s <= by_s or node in members]
        if len(ready) == len(scene.present):
            return ready, None
        since_s = next(since_s for node, since_s in scene.present.items() if since_s > by_s and node not in members)
        return ready, since_s + warm_up_s

    def _learn(self, scene: Scene) -> None:
        if scene.now_s > 0:
            left = len(scene.change.left) if scene.change is not None else 0
            self._outlook = self._outlook.after(scene.now_s - self._known_s, left)
        self._known_s = scene.now_s

    def _take(self, plan: _Plan, warm_s: float | None) -> Turn:
        cause = START if self._layout is NOTHING else JOIN if plan.move.newcomers else LOSS
        self._layout, self._floor = plan.layout, plan.floor
        return replace(
            self._turn(again_s=warm_s),
            stalls={cause: plan.seconds},
            moved_bytes=plan.move.moved_bytes,
            remote_bytes=plan.move.absent_bytes,
        )

    def _turn(self, *, again_s: float | None) -> Turn:
        return Turn(rate=self._layout.rate, layout=str(self._layout), used=self._layout.nodes, again_s=again_s)


def _first(*moments_s: float | None) -> float | None:
    return min((at_s for at_s in moments_s if at_s is not None), default=None)


def _close(floor: Floor, gone: Sequence[NodeId], spares: int) -> Iterator[Depths]:
    """Depths that leave most pipelines as they are: holes filled, damaged pipelines shorter, or given up; newcomers as
    one pipeline more, or one each to the shallowest ones."""
    depths = floor.depths
    if not depths:
        return
    if gone:
        if spares >= len(gone):
            yield depths
        holes = Counter(floor.home[node] for node in gone)
        yield _sorted(depth - holes[number] for number, depth in enumerate(depths))
        yield _sorted(depth for number, depth in enumerate(depths) if not holes[number])
    elif spares:
        yield _sorted([*depths, spares])
        deeper = min(spares, len(depths))
        yield _sorted([*depths[:-deeper], *(depth + 1 for depth in depths[-deeper:])])


def _sorted(depths: Iterable[int]) -> Depths:
    return tuple(sorted((depth for depth in depths if depth), reverse=True))

"""Who stands where in a layout, and what has to move when another one is formed from those who are left."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from holdfast.model.ids import NodeId
from holdfast.model.plan import Span
from holdfast.simulator.replay.model import Model
from holdfast.simulator.replay.yields import Depths

# Larger rearrangements are matched in order of layers, without weighing whom to leave out.
_WEIGHED_MAX = 32


@dataclass(frozen=True)
class Floor:
    """Nodes of each pipeline by stage, one slot each; deepest pipelines first."""

    pipelines: tuple[tuple[NodeId, ...], ...] = ()

    @cached_property
    def depths(self) -> Depths:
        return tuple(map(len, self.pipelines))

    @cached_property
    def members(self) -> frozenset[NodeId]:
        return frozenset(self.home)

    @cached_property
    def home(self) -> dict[NodeId, int]:
        """The pipeline of each member."""
        return {node: number for number, pipeline in enumerate(self.pipelines) for node in pipeline}

    def span(self, node: NodeId, model: Model) -> Span:
        """The layers that a member holds."""
        pipeline = self.pipelines[self.home[node]]
        return model.cuts(len(pipeline))[pipeline.index(node)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """From one floor to another. Bytes: what the node that lacks most receives, what the one that gives most sends,
    and all together; `absent_bytes`: of layers that nobody holds any more."""

    before: Depths
    after: Depths
    newcomers: int
    gone: int  # who were members and are not there any more
    received_bytes: int
    sent_bytes: int
    moved_bytes: int
    absent_bytes: int
    is_resized: bool  # a stage has other layers than before, or a node another stage


@dataclass(slots=True)
class _Vacancy:
    """A place to fill."""

    pipeline: int
    stage: int
    span: Span


@dataclass(slots=True)
class _Forming:
    """A floor while it is put together."""

    lines: list[tuple[NodeId, ...] | list[NodeId | None]]  # those that stay as they are, and those with holes
    vacancies: list[_Vacancy] = field(default_factory=list)
    moved: list[tuple[Span, Span | None]] = field(default_factory=list)  # wanted, held
    newcomers: int = 0

    def put(self, vacancy: _Vacancy, node: NodeId, held: Span | None) -> None:
        line = self.lines[vacancy.pipeline]
        assert isinstance(line, list)
        line[vacancy.stage] = node
        self.newcomers += held is None
        if held != vacancy.span:
            self.moved.append((vacancy.span, held))


def rebuild(
    floor: Floor, depths: Depths, gone: Collection[NodeId], spares: Sequence[NodeId], model: Model
) -> tuple[Floor, Move]:
    """A floor of `depths` from the members of `floor` that are not `gone`, then `spares`, in that order.

    Pipelines of a wanted depth stay, the least damaged first, and holes in them are filled. Who is left over takes the
    place whose layers it holds, else, in order of layers, the places it lacks least for. This is a good assignment
    rather than the best one, which the planner finds (`planner.placement`), and takes time only for what changes.
    """
    lost = frozenset(gone) & floor.members
    forming, free = _keep(floor, depths, lost, model)
    _match(forming, free, spares, model)
    lines = tuple(line if isinstance(line, tuple) else tuple(filter(None, line)) for line in forming.lines)
    assert tuple(map(len, lines)) == depths, f"too few nodes for {depths}"
    received = [model.lacking(wanted, span) for wanted, span in forming.moved]
    sent, absent = _sent(forming.moved, floor, lost, model)
    return Floor(lines), Move(
        before=floor.depths,
        after=depths,
        newcomers=forming.newcomers,
        gone=len(lost),
        received_bytes=max(received, default=0),
        sent_bytes=sent,
        moved_bytes=sum(received),
        absent_bytes=absent,
        is_resized=any(span is not None for _, span in forming.moved),
    )


def _keep(floor: Floor, depths: Depths, lost: Collection[NodeId], model: Model) -> tuple[_Forming, dict[NodeId, Span]]:
    """Pipelines that stay, with their holes, and who is free to go elsewhere."""
    wanted = Counter(depths)
    damage = Counter(floor.home[node] for node in lost)
    order = sorted(range(len(floor.pipelines)), key=lambda number: (damage[number], number))
    kept: dict[int, list[int]] = {}
    free: dict[NodeId, Span] = {}
    for number in order:
        line = floor.pipelines[number]
        if wanted[len(line)]:
            wanted[len(line)] -= 1
            kept.setdefault(len(line), []).append(number)
        else:
            cuts = model.cuts(len(line))
            free |= {node: span for node, span in zip(line, cuts, strict=True) if node not in lost}
    forming = _Forming([])
    for number, depth in enumerate(depths):
        before = kept[depth].pop(0) if kept.get(depth) else None
        if before is not None and not damage[before]:
            forming.lines.append(floor.pipelines[before])
            continue
        members = floor.pipelines[before] if before is not None else (None,) * depth
        line_left = [node if node not in lost else None for node in members]
        forming.lines.append(line_left)
        cuts = model.cuts(depth)
        forming.vacancies += [_Vacancy(number, stage, cuts[stage]) for stage, at in enumerate(line_left) if at is None]
    return forming, free


def _match(forming: _Forming, free: dict[NodeId, Span], spares: Sequence[NodeId], model: Model) -> None:
    """Fill the vacancies: by those who hold the very layers, by those who hold some, by newcomers."""
    by_span: dict[Span, list[NodeId]] = {}
    for node, span in free.items():
        by_span.setdefault(span, []).append(node)
    left: list[_Vacancy] = []
    for vacancy in forming.vacancies:
        if by_span.get(vacancy.span):
            forming.put(vacancy, by_span[vacancy.span].pop(0), vacancy.span)
        else:
            left.append(vacancy)
    others = [(span, node) for span in sorted(by_span, key=_order) for node in sorted(by_span[span])]
    left.sort(key=lambda vacancy: (_order(vacancy.span), vacancy.pipeline))
    pairs = _aligned([vacancy.span for vacancy in left], [span for span, _ in others], model)
    newcomers = iter(spares)
    for vacancy, other in zip(left, pairs, strict=True):
        if other is not None:
            forming.put(vacancy, others[other][1], others[other][0])
        else:
            newcomer = next(newcomers, None)
            assert newcomer is not None, "fewer nodes than places"
            forming.put(vacancy, newcomer, None)


def _aligned(wanted: Sequence[Span], held: Sequence[Span], model: Model) -> list[int | None]:
    """For each place, in order of layers, who takes it: all holders if there are places enough, or else all places."""
    places, holders = len(wanted), len(held)
    if not holders:
        return [None] * places
    if max(places, holders) > _WEIGHED_MAX:
        few = min(places, holders)
        chosen: list[int | None] = [None] * places
        for number in range(few):
            chosen[number * places // few] = number * holders // few
        return chosen
    # most[i][j]: bytes that need not move when the first i places are filled from the first j holders.
    most = [[0] * (holders + 1) for _ in range(places + 1)]
    for i in range(1, places + 1):
        size, row, before = model.size(wanted[i - 1]), most[i], most[i - 1]
        for j in range(1, holders + 1):
            kept = before[j - 1] + size - model.lacking(wanted[i - 1], held[j - 1])
            row[j] = max(kept, before[j], row[j - 1])
    found: list[int | None] = [None] * places
    i, j = places, holders
    while i and j:
        size = model.size(wanted[i - 1]) - model.lacking(wanted[i - 1], held[j - 1])
        if most[i][j] == most[i - 1][j - 1] + size and (size or min(i, j) == min(places, holders)):
            i, j = i - 1, j - 1
            found[i] = j
        elif most[i][j] == most[i - 1][j]:
            i -= 1
        else:
            j -= 1
    _use_up(found, holders)
    return found


def _use_up(found: list[int | None], holders: int) -> None:
    """Who holds nothing that is wanted still is warm: before a newcomer it takes a place."""
    unused = [holder for holder in range(holders) if holder not in set(found)]
    for place, holder in enumerate(found):
        if holder is None and unused:
            found[place] = unused.pop(0)


def _sent(
    moved: Sequence[tuple[Span, Span | None]], floor: Floor, lost: Collection[NodeId], model: Model
) -> tuple[int, int]:
    """(what the busiest source sends, bytes that have no source); holders of a layer share what is asked of it."""
    if not moved or not floor.pipelines:
        return 0, 0
    asked = [0] * model.layers
    for wanted, held in moved:
        for layer in wanted:
            asked[layer] += held is None or layer not in held
    holders = [len(floor.pipelines)] * model.layers
    for node in lost:
        for layer in floor.span(node, model):
            holders[layer] -= 1
    share = [model.layer_size(layer) * times / max(1, holders[layer]) for layer, times in enumerate(asked)]
    absent = sum(model.layer_size(layer) for layer, times in enumerate(asked) if times and not holders[layer])
    stages = {span for depth in set(floor.depths) for span in model.cuts(depth)}
    return round(max(sum(share[span.start : span.stop]) for span in stages)), absent


def _order(span: Span) -> tuple[int, int]:
    return span.start, span.stop

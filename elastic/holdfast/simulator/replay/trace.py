"""A preemption trace: who comes and who goes, and when."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from holdfast.errors import UserError
from holdfast.model.ids import NodeId

SPOT = "spot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What happens in one moment. `notice_s`: how long before it those who leave were told."""

    at_s: float
    joined: tuple[NodeId, ...] = ()
    left: tuple[NodeId, ...] = ()
    notice_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A time in which the same nodes are there."""

    start_s: float
    stop_s: float
    nodes: int

    @property
    def seconds(self) -> float:
        return self.stop_s - self.start_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Changes in order of time, one a moment. `kinds`: of nodes that are not spot instances."""

    name: str
    changes: tuple[Change, ...]
    duration_s: float
    kinds: Mapping[NodeId, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        present: set[NodeId] = set()
        before_s = -1.0
        for change in self.changes:
            at = f"trace {self.name!r}, {change.at_s:g} s"
            if change.at_s < 0 or change.at_s <= before_s:
                raise UserError(f"{at}: should come after {max(before_s, 0):g} s; put changes in order, one a moment")
            if change.at_s > self.duration_s:
                raise UserError(f"{at}: lies after the end at {self.duration_s:g} s; give a longer duration_s")
            if both := set(change.joined) & set(change.left):
                raise UserError(f"{at}: {min(both)} joins and leaves at once; leave out both, or part them in time")
            if there := set(change.joined) & present:
                raise UserError(f"{at}: {min(there)} joins and is there already; give each node a name of its own")
            if absent := set(change.left) - present:
                raise UserError(f"{at}: {min(absent)} leaves and is not there; let it join before")
            present |= set(change.joined)
            present -= set(change.left)
            before_s = change.at_s

    def stretches(self) -> Iterator[Stretch]:
        """The whole trace, cut where the number of nodes may change; empty stretches left out."""
        nodes, since_s = 0, 0.0
        for change in self.changes:
            if change.at_s > since_s:
                yield Stretch(start_s=since_s, stop_s=change.at_s, nodes=nodes)
            nodes += len(change.joined) - len(change.left)
            since_s = change.at_s
        if self.duration_s > since_s:
            yield Stretch(start_s=since_s, stop_s=self.duration_s, nodes=nodes)

    @property
    def mean_nodes(self) -> float:
        return self.node_seconds / self.duration_s if self.duration_s else 0.0

    @property
    def node_seconds(self) -> float:
        return sum(stretch.nodes * stretch.seconds for stretch in self.stretches())

    @property
    def most_nodes(self) -> int:
        return max((stretch.nodes for stretch in self.stretches()), default=0)

    @property
    def losses(self) -> int:
        return sum(len(change.left) for change in self.changes)

    @property
    def joins(self) -> int:
        return sum(len(change.joined) for change in self.changes)

    def part(self, start_s: float, stop_s: float) -> "Trace":
        """The same nodes between two moments, from zero on; who is there at the start joins then."""
        present: dict[NodeId, None] = {}
        kept: list[Change] = []
        for change in self.changes:
            if change.at_s >= stop_s:
                break
            if change.at_s <= start_s:
                present.update(dict.fromkeys(change.joined))
                for node in change.left:
                    del present[node]
            else:
                kept.append(replace(change, at_s=change.at_s - start_s))
        first = Change(at_s=0.0, joined=tuple(present))
        name = f"{self.name} from {start_s:g} to {stop_s:g} s"
        return replace(self, name=name, changes=(first, *kept), duration_s=min(stop_s, self.duration_s) - start_s)

    def noticed(self, notice_s: float) -> "Trace":
        """The same with so much notice for everybody who leaves."""
        return replace(self, changes=tuple(replace(change, notice_s=notice_s) for change in self.changes))

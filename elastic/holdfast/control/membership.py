"""Who takes part in the next generation: warm workers of nodes that may, all of which reach each other."""

from dataclasses import dataclass

from holdfast.control.job import Job
from holdfast.control.reach import Apart, choose
from holdfast.control.standing import Standings
from holdfast.control.view import View
from holdfast.model.ids import NodeId
from holdfast.model.records import AgentRef, WorkerRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """`barred` nodes wait for their standing to get better, `unreachable` ones until they are reached again."""

    members: tuple[WorkerRef, ...]
    barred: tuple[NodeId, ...]
    unreachable: tuple[NodeId, ...]


def choose_members(job: Job, view: View, standings: Standings, now_s: float, *, needs_all: bool) -> Membership:
    """`needs_all`: the job cannot go on with those it has, so nobody is barred.

    Who is a member and lives stays one, whatever its node's standing. Of several sets that reach each other, the one
    taken can train, then is the largest, then has the most nodes of the running plan, then the lowest names.
    """
    live, known = view.live, {ref.worker for ref in view.members}
    kept = {ref.slot.node for ref in live if ref.worker in known}
    barred = {
        node
        for node in {ref.slot.node for ref in live}
        if not needs_all and standings.is_barred(node, view.committed_step, now_s, is_exposed=view.entrusted.is_exposed)
    }
    able = kept.union(ref.slot.node for ref in live if ref.slot.node not in barred) - set(view.draining)
    for node in sorted(barred - kept, key=lambda node: (standings.losses(node), node)):
        if len(able) < job.nodes_min:  # better than to pause
            barred.discard(node)
            able.add(node)
    allowed = tuple(ref for ref in live if ref.worker in known or ref.slot.node not in barred)
    nodes = {ref.slot.node for ref in allowed}
    apart = {node: others & nodes for node, others in view.apart.items() if node in nodes and others & nodes}
    chosen = _reaching(job, view, nodes, apart)
    return Membership(
        members=tuple(ref for ref in allowed if ref.slot.node in chosen),
        barred=tuple(sorted({ref.slot.node for ref in live} - nodes)),
        unreachable=tuple(sorted(nodes - chosen)),
    )


def agents_of(view: View, members: tuple[WorkerRef, ...]) -> tuple[AgentRef, ...]:
    """Where to ask after them, by node."""
    return tuple(
        AgentRef(node=node, incarnation=record.incarnation, host=record.host, port=record.port, domain=record.domain)
        for node in sorted({ref.slot.node for ref in members})
        if (record := view.nodes.get(node)) is not None
    )


def _reaching(job: Job, view: View, nodes: set[NodeId], apart: Apart) -> frozenset[NodeId]:
    if not apart:
        return frozenset(nodes)
    plan = view.start.plan if view.start is not None else None
    planned = plan.nodes if plan is not None else view.member_nodes
    draining = frozenset(view.draining)

    def worth(candidate: frozenset[NodeId]) -> tuple[bool, int, int]:
        enough = len(candidate - draining) >= job.nodes_min
        return enough and _holds_all(job, view, candidate), len(candidate), len(candidate & planned)

    return choose(nodes, apart, worth)


def _holds_all(job: Job, view: View, candidate: frozenset[NodeId]) -> bool:
    """Whether every layer lies on one of these nodes, as far as is known.

    A leader that has seen no start finds that out, one candidate after the other.
    """
    if view.committed_step == 0:
        return True  # what lacks is made
    workers = [ref.worker for ref in view.live if ref.slot.node in candidate]
    held = view.entrusted.held_by(workers)
    return held is None or len(held) == job.layer_count

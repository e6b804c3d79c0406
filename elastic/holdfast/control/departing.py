"""Nodes that leave as planned: when a stop at a boundary comes too late for one, and when one may go."""

from collections import Counter
from dataclasses import replace

from holdfast.control.due import Due
from holdfast.control.job import Job
from holdfast.control.view import View
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.records import Action, DrainRecord, Restore, StartRecord, StopMode, Transfer

# Of the time that a member still has when a start is written, the share after which a start that stalls is tried again.
_SHARE_TO_START = 0.75
# No storage that is worth waiting for is slower.
_BYTES_A_SECOND = 20e6


def stalled_s(job: Job, view: View) -> float:
    """When the present start is tried again, should it not run by then: sooner where a member must leave before."""
    at_s = max(view.entered_s, view.waits.ended_s) + max(job.start_s, _moving_s(job, view))
    at_s = max(at_s, view.entered_s + job.away_s) if view.waits.nodes else at_s
    for node in view.draining:
        if node in view.member_nodes:
            drain = view.drains[node]
            from_s = max(view.entered_s, drain.seen_s)
            left_s = drain.seen_s + drain.record.grace_s - from_s
            if left_s > 0:
                at_s = min(at_s, from_s + max(left_s * _SHARE_TO_START, job.abort_s))
    return at_s


def _moving_s(job: Job, view: View) -> float:
    """How long the slot that lacks most may take to get it, from a slow storage perhaps."""
    lacking: Counter[SlotId] = Counter()
    if view.start is not None:
        for move in _moves(view.start):
            lacking[move.target] += job.layer_bytes[move.layer]
    return max(lacking.values(), default=0) / _BYTES_A_SECOND


def _moves(start: StartRecord) -> tuple[Transfer | Restore, ...]:
    return (*start.transfers, *start.restores)


def urgent(view: View) -> Due | None:
    """A member's next deadline that a stop at a boundary may miss: half of the grace is for what comes after it."""
    assert view.generation is not None
    if view.generation.stop is StopMode.ABORT:
        return None
    leaving = (node for node in view.draining if node in view.member_nodes)
    times = ((view.drains[node].seen_s + view.drains[node].record.grace_s / 2, node) for node in leaving)
    at_s, node = min(times, default=(0.0, None))
    return Due(at_s, f"{node} must leave now") if node is not None else None


def is_short(job: Job, view: View) -> bool:
    """Whether fewer nodes than the minimum are left, though all that train are there."""
    start = view.start
    training = start is not None and start.action is Action.TRAIN and start.plan is not None
    if start is None or start.plan is None or not training or view.committed_step >= job.steps:
        return False
    if len(start.plan.nodes) - len(view.draining) >= job.nodes_min:
        return False
    return len({ref.slot.node for ref in view.live} - set(view.draining)) < job.nodes_min


def released(job: Job, view: View) -> DrainRecord | None:
    """Of the next node that may go, since nothing hangs on it. While a generation forms, one that is no member may hold
    what the members lack."""
    if view.generation is not None and not view.is_running:
        return None
    for node in view.draining:
        if node not in view.member_nodes or _is_spare(job, view, node):
            return replace(view.drains[node].record, released=True)
    return None


def honoured(view: View) -> tuple[DrainRecord, ...]:
    """Of nodes that were released and are gone. Only a new generation may forget them: the one before lists them as
    members, and nobody is to look for them."""
    drains = (view.drains[node].record for node in sorted(view.drains) if node not in view.nodes)
    return tuple(record for record in drains if record.released)


def _is_spare(job: Job, view: View, node: NodeId) -> bool:
    """Whether nothing of the running generation hangs on `node`."""
    start = view.start
    assert start is not None
    if start.plan is not None:
        return node not in start.plan.nodes
    if start.version.step == 0 or view.catalogue.has(start.version):
        return True
    staying = {ref.slot.node for ref in view.live} - set(view.draining)
    kept = {move.layer for move in _moves(start) if move.target.node in staying}
    kept.update(layer for layer, nodes in view.stored.in_ram(start.version).items() if not staying.isdisjoint(nodes))
    for inventory in view.inventories:
        if inventory.slot.node in staying and start.version in (inventory.version, inventory.pending):
            kept.update(inventory.layers)
    return len(kept) == job.layer_count

"""Newcomers: whether any are to be had, and when they are taken in.

Joins are waited for a short while, so that those close together become one generation, and the longer the more come.
They take at most half of the time: after a generation took so long to form, it trains as long before the next join,
and at least for a step.
"""

from collections.abc import Collection

from holdfast.control.job import Job
from holdfast.control.standing import Standings
from holdfast.control.view import View
from holdfast.model.ids import NodeId
from holdfast.model.records import WorkerRef

# Joins that keep coming make the wait for more of them longer, at most so many times.
_SETTLE_MAX, _WAIT_MAX = 5, 20


def newcomers(job: Job, view: View) -> frozenset[NodeId]:
    """Nodes with warm workers that are no members, where there is room for one more."""
    plan = view.start.plan if view.start is not None else None
    if job.nodes_max is not None and plan is not None and len(plan.nodes) >= job.nodes_max:
        return frozenset()
    return frozenset(ref.slot.node for ref in view.strangers)


def names(view: View, chosen: Collection[WorkerRef], without: Collection[NodeId] = ()) -> str:
    """Of the chosen slots that are no members yet, but for those of some nodes."""
    new = (ref for ref in chosen if ref.worker not in view.roster.members and ref.slot.node not in without)
    return ", ".join(str(ref.slot) for ref in new)


def due_s(job: Job, view: View) -> float:
    """When newcomers are taken in."""
    joins = view.joins
    settled_s = view.membership_changed_s + job.join_settle_s
    if joins.count:
        patient_s = joins.last_s + job.join_settle_s * min(joins.count, _SETTLE_MAX)
        settled_s = min(patient_s, joins.first_s + job.join_settle_s * _WAIT_MAX)
    if view.runs_s is None:
        return settled_s
    took_s = min(view.runs_s - view.began_s, job.start_s)
    return max(settled_s, view.runs_s + took_s)


def waits_until_s(standings: Standings, nodes: Collection[NodeId], now_s: float) -> float | None:
    """When the first of these that stay out for a time may come back."""
    times = (standings.waits_until_s(node) for node in sorted(nodes))
    return min((time_s for time_s in times if time_s is not None and time_s > now_s), default=None)

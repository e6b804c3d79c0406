"""Which pods the job is to have: names for those that are missing, and who goes where there are too many."""

from collections.abc import Collection

from holdfast_operator.api.v1alpha1.status import NodeEntry
from holdfast_operator.reconcile.failures import held_back
from holdfast_operator.reconcile.ledger import Ledger, asked
from holdfast_operator.reconcile.view import View

# Pods at a time, those that leave among them: so many times `nodes.max`, and a few that are kept for their logs.
_STANDING_SHARE, _KEPT = 2, 8


def placed(view: View, ledger: Ledger, count: int) -> Ledger:
    """With `count` nodes that stay, or as many as may be made by now."""
    staying = ledger.staying
    if len(staying) > count:
        goers = sorted(staying, key=lambda entry: _worth(view, entry))[: len(staying) - count]
        return ledger.marked(goers, asked(view, f"{count} nodes are asked for"))
    # Pods that leave may stand as long as they need to; with more of them than nodes no other is made.
    standing = len(view.pods) + sum(not entry.uid for entry in staying)
    missing = min(count - len(staying), max(0, _STANDING_SHARE * view.job.spec.nodes.max + _KEPT - standing))
    if missing:
        missing = max(0, missing - held_back(view, ledger.failures, ledger.entries))
    return ledger.with_entries((*ledger.entries, *(NodeEntry(index=index) for index in _free(view, ledger, missing))))


def _worth(view: View, entry: NodeEntry) -> tuple[bool, bool, bool, bool, int]:
    """Least first: not made, without a host, not in the rendezvous, of no generation, and of these the newest name."""
    pod = view.pod_of(entry)
    is_bound = pod is not None and bool(pod.host)
    is_member = entry.joined and view.is_member(view.node(entry.index))
    return bool(entry.uid), is_bound, entry.joined, is_member, -entry.index


def _free(view: View, ledger: Ledger, count: int) -> list[int]:
    """The lowest indices of which nothing is left. Nobody takes the name of an agent that may still live, nor one that
    somebody told to leave."""
    # What agents and drains are left cannot be told without the rendezvous: then no name is used again.
    entered = ledger.staying if view.is_readable else ledger.entries
    taken = {entry.index for entry in entered} | {pod.index for pod in view.pods.values()}
    free: list[int] = []
    index = 0
    while len(free) < count:
        if index not in taken and not _is_haunted(view, index):
            free.append(index)
        index += 1
    return free


def _is_haunted(view: View, index: int) -> bool:
    node, run = view.node(index), view.run
    drain = view.drain_of(node)
    return (run is not None and node in run.nodes) or (drain is not None and not drain.is_released)


def names_of(view: View, entries: Collection[NodeEntry]) -> str:
    """For people."""
    return ", ".join(view.node(entry.index) for entry in entries)

"""Which nodes may form a generation when some cannot reach each other: all pairs in it do, and there is one such set.

Two nodes are apart as soon as one of them says so. Nodes that are apart from the same others go in or stay out
together, so that two halves are two candidates, however large they are.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from holdfast.model.ids import NodeId

Apart = Mapping[NodeId, frozenset[NodeId]]  # symmetric; nodes that are apart from nobody are not listed
Worth = Callable[[frozenset[NodeId]], Any]
# Candidates looked at. Cuts have few; only nodes that are apart at random have many.
_CANDIDATES_MAX = 500


def apart_of(unreachable: Mapping[NodeId, Collection[NodeId]], nodes: Collection[NodeId]) -> Apart:
    """From what each of `nodes` says of the others."""
    found: dict[NodeId, set[NodeId]] = {}
    for node in sorted(unreachable.keys() & nodes):
        for other in unreachable[node]:
            if other in nodes and other != node:
                found.setdefault(node, set()).add(other)
                found.setdefault(other, set()).add(node)
    return {node: frozenset(others) for node, others in found.items()}


def choose(nodes: Collection[NodeId], apart: Apart, worth: Worth) -> frozenset[NodeId]:
    """The most worthy of the sets that cannot grow; of several, the one with the lowest names."""
    free = frozenset(nodes) - apart.keys()
    if not apart:
        return free
    candidates = sorted(free | candidate for candidate in _sets(nodes, apart))
    candidates.sort(key=sorted)
    return max(candidates, key=worth)  # the first of equals


def _sets(nodes: Collection[NodeId], apart: Apart) -> Iterator[frozenset[NodeId]]:
    """Maximal sets of nodes none of which are apart, by branching on twins (Bron and Kerbosch, 1973, without pivot)."""
    twins: dict[frozenset[NodeId], list[NodeId]] = {}
    for node in sorted(set(nodes) & apart.keys()):
        twins.setdefault(apart[node] & frozenset(nodes), []).append(node)
    classes = [(frozenset(members), others) for others, members in twins.items()]
    # Each entry: what is in, which classes are still open, which were open and are left out here.
    stack: list[tuple[frozenset[NodeId], tuple[int, ...], tuple[int, ...]]] = [
        (frozenset(), tuple(range(len(classes))), ())
    ]
    found = 0
    while stack and found < _CANDIDATES_MAX:
        chosen, still, without = stack.pop()
        if not still:
            if not without:
                found += 1
                yield chosen
            continue
        number, rest = still[0], still[1:]
        members, others = classes[number]
        # Left out, unless nothing that is still open speaks against it.
        if any(classes[other][0] & others for other in rest):
            stack.append((chosen, rest, (*without, number)))
        stack.append(
            (
                chosen | members,
                tuple(other for other in rest if not classes[other][0] & others),
                tuple(other for other in without if not classes[other][0] & others),
            )
        )

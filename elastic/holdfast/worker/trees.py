"""The fixed binary tree over a batch's blocks, which fixes the order of every gradient sum.

A node [lo, hi) splits at lo plus the largest power of two below its length. The tree depends on the number of
blocks alone, so a sum taken along it has the same bits wherever its parts were computed.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import TypeVar

from holdfast.model.plan import Span

T = TypeVar("T")


def split(node: Span) -> tuple[Span, Span]:
    """Left and right child of a node of two blocks or more."""
    half = 1 << (len(node) - 1).bit_length() - 1
    return Span(node.start, node.start + half), Span(node.start + half, node.stop)


@cache
def parents(blocks: int) -> Mapping[tuple[Span, Span], Span]:
    """Every pair of siblings of the tree over `blocks` blocks, with its parent."""
    found: dict[tuple[Span, Span], Span] = {}
    todo = [Span(0, blocks)]
    while todo:
        node = todo.pop()
        if len(node) > 1:
            children = split(node)
            found[children] = node
            todo.extend(children)
    return found


@cache
def subtrees(blocks: int, part: Span) -> tuple[Span, ...]:
    """The maximal nodes within `part`, ascending: what one pipeline can sum alone."""

    def cover(node: Span) -> list[Span]:
        if part.start <= node.start and node.stop <= part.stop:
            return [node]
        if node.stop <= part.start or part.stop <= node.start:
            return []
        left, right = split(node)
        return cover(left) + cover(right)

    return tuple(cover(Span(0, blocks)))


def combine(blocks: int, parts: Mapping[Span, T], add: Callable[[T, T], T]) -> T:
    """Sum of all blocks along the tree, from subtrees that cover it. `add(left, right)` may work in place on left."""

    def value(node: Span) -> T:
        if node in parts:
            return parts[node]
        left, right = split(node)
        return add(value(left), value(right))

    return value(Span(0, blocks))


def even_cuts(size: int, parts: int, multiple: int) -> Sequence[Span]:
    """[0, size) in `parts` nearly even runs whose cuts are multiples of `multiple`; some may be empty."""
    units = -(-size // multiple)
    cuts = [min(size, (units * part // parts) * multiple) for part in range(parts)] + [size]
    return [Span(start, stop) for start, stop in pairwise(cuts)]

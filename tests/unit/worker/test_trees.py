"""The block tree: its shape, what parts of it cover, and sums along it."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.model.plan import Span
from holdfast.worker.trees import combine, even_cuts, parents, split, subtrees

BLOCKS = st.integers(1, 70)


@st.composite
def partitions(draw: st.DrawFn, blocks: st.SearchStrategy[int] = BLOCKS) -> tuple[int, list[Span]]:
    """A number of blocks, and contiguous non-empty parts of them, as pipelines would have."""
    count = draw(blocks)
    cuts = [0, *sorted(draw(st.sets(st.integers(1, max(1, count - 1)), max_size=6)) if count > 1 else ()), count]
    return count, [Span(start, stop) for start, stop in itertools.pairwise(cuts)]


@pytest.mark.parametrize(
    ("node", "middle"), [((0, 2), 1), ((0, 3), 2), ((0, 5), 4), ((4, 8), 6), ((0, 8), 4), ((0, 9), 8)]
)
def test_a_node_splits_at_the_largest_power_of_two_below_its_length(node: tuple[int, int], middle: int) -> None:
    assert split(Span(*node)) == (Span(node[0], middle), Span(middle, node[1]))


@given(BLOCKS)
def test_the_tree_joins_all_blocks_two_nodes_at_a_time(blocks: int) -> None:
    tree = parents(blocks)

    assert len(tree) == blocks - 1
    assert all(
        left.stop == right.start and Span(left.start, right.stop) == parent for (left, right), parent in tree.items()
    )
    nodes = {Span(0, blocks)} | {child for pair in tree for child in pair}
    assert {Span(block, block + 1) for block in range(blocks)} <= nodes


@given(partitions())
def test_subtrees_cover_a_part_exactly_with_as_few_nodes_as_can_be(partition: tuple[int, list[Span]]) -> None:
    blocks, parts = partition
    tree = parents(blocks)
    for part in parts:
        nodes = subtrees(blocks, part)

        assert [block for node in nodes for block in node] == list(part)
        assert not any(pair in tree for pair in itertools.pairwise(nodes))
        assert len(nodes) <= 2 * math.ceil(math.log2(len(part) + 1))


def test_an_empty_part_has_no_subtrees() -> None:
    assert subtrees(4, Span(2, 2)) == ()


@given(partitions(), st.data())
def test_a_sum_has_the_same_bits_however_the_blocks_are_parted(
    partition: tuple[int, list[Span]], data: st.DataObject
) -> None:
    blocks, parts = partition
    floats = st.floats(-1e300, 1e300, allow_nan=False)
    values = data.draw(st.lists(floats, min_size=blocks, max_size=blocks))

    def add(left: float, right: float) -> float:
        return left + right

    alone = combine(blocks, {Span(n, n + 1): value for n, value in enumerate(values)}, add)
    of_parts = {}
    for part in parts:
        for node in subtrees(blocks, part):
            below = {Span(n, n + 1): value for n, value in enumerate(values)}
            of_parts[node] = _value(node, below)
    assert combine(blocks, of_parts, add).hex() == alone.hex()


def _value(node: Span, values: dict[Span, float]) -> float:
    """By the definition of the tree, nothing else."""
    if len(node) == 1:
        return values[node]
    half = 1
    while half * 2 < len(node):
        half *= 2
    left, right = Span(node.start, node.start + half), Span(node.start + half, node.stop)
    return _value(left, values) + _value(right, values)


def test_the_order_of_a_sum_shows_in_its_bits() -> None:
    """What the property above would miss if floats were not used."""
    values = {Span(0, 1): 1e16, Span(1, 2): 1.0, Span(2, 3): 1.0}

    assert combine(3, values, lambda left, right: left + right) == 1e16
    assert values[Span(0, 1)] + (values[Span(1, 2)] + values[Span(2, 3)]) == 1e16 + 2


def test_add_is_given_left_before_right() -> None:
    letters = {Span(n, n + 1): letter for n, letter in enumerate("abcde")}

    assert combine(5, letters, lambda left, right: f"({left}{right})") == "(((ab)(cd))e)"


@given(size=st.integers(0, 500), parts=st.integers(1, 9), multiple=st.integers(1, 32))
def test_even_cuts_tile_the_range_at_multiples_and_are_nearly_even(size: int, parts: int, multiple: int) -> None:
    cuts = even_cuts(size, parts, multiple)

    assert len(cuts) == parts
    assert [index for span in cuts for index in span] == list(range(size))
    assert all(span.start % multiple == 0 or span.start == size for span in cuts)
    lengths = [len(span) for span in cuts]
    assert max(lengths) <= -(-size // multiple) * multiple // parts + multiple

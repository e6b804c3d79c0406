"""Canonical gradients: whoever computes which blocks, on however many ranks, the sum has the bits of one rank's."""

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from holdfast.model.plan import Span
from holdfast.worker.gradients import BlockSums, FlatLayout, Gradients, add_all
from holdfast.worker.trees import combine, even_cuts, subtrees

SHAPES = ((3, 5), (5,), (7,), ())


class Rank:
    """One rank's copy of a layer, of which a block may leave some parameters unused."""

    def __init__(self, blocks: int) -> None:
        self.parameters = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
        self.layout = FlatLayout(self.parameters)
        self.sums = BlockSums(self.layout, blocks)

    def compute(self, part: Span, gradients: list[Gradients], unused: set[int]) -> None:
        """A backward for each microbatch: two of them a block, the second half as large."""
        self.sums.begin()
        for block in part:
            for factor in (1.0, 0.5):
                used = self.parameters[1:] if block in unused else self.parameters
                given_ = gradients[block][1:] if block in unused else gradients[block]
                loss = sum(((p * g * factor).sum() for p, g in zip(used, given_, strict=True)), torch.zeros(()))
                loss.backward()
            self.sums.end_block(block)

    def flat_parts(self) -> dict[Span, Tensor]:
        return {node: self.layout.flatten(gradients) for node, gradients in self.sums.parts}


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, list[Span], int, set[int]]:
    """Blocks, what each pipeline has of them, a seed, blocks in which the first parameter is unused."""
    blocks = draw(st.integers(1, 17))
    cuts = sorted(draw(st.sets(st.integers(1, blocks - 1), max_size=5))) if blocks > 1 else []
    ends = [0, *cuts, blocks]
    parts = [Span(start, stop) for start, stop in itertools.pairwise(ends)]
    return blocks, parts, draw(st.integers(0, 2**32)), draw(st.sets(st.integers(0, blocks - 1), max_size=3))


def random_gradients(blocks: int, seed: int) -> list[Gradients]:
    """Of very different sizes, so that the order of a sum shows in its bits."""
    source = torch.Generator().manual_seed(seed)

    def one(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=source) * 10.0 ** torch.randint(-6, 7, shape, generator=source)

    return [tuple(one(shape) for shape in SHAPES) for _ in range(blocks)]


def add_in_place(left: Tensor, right: Tensor) -> Tensor:
    return left.add_(right)


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().numpy().tobytes()


@settings(max_examples=150, deadline=None)
@given(cases())
def test_the_sum_over_any_ranks_has_the_bits_of_the_sum_on_one(case: tuple[int, list[Span], int, set[int]]) -> None:
    blocks, parts, seed, unused = case
    gradients = random_gradients(blocks, seed)
    alone = Rank(blocks)
    alone.compute(Span(0, blocks), gradients, unused)
    assert [node for node, _ in alone.sums.parts] == [Span(0, blocks)]
    wanted = alone.flat_parts()[Span(0, blocks)]

    ranks = [Rank(blocks) for _ in parts]
    for rank, part in zip(ranks, parts, strict=True):
        rank.compute(part, gradients, unused)
        assert tuple(node for node, _ in rank.sums.parts) == subtrees(blocks, part)

    # As the reducer does: each rank combines one chunk of everyone's parts.
    flats = [rank.flat_parts() for rank in ranks]
    chunks = even_cuts(alone.layout.total, len(ranks), alone.layout.step)
    pieces = [
        combine(
            blocks,
            {node: flat[chunk.start : chunk.stop].clone() for parts_of in flats for node, flat in parts_of.items()},
            add_in_place,
        )
        for chunk in chunks
    ]
    assert bits(torch.cat(pieces)) == bits(wanted)


@settings(max_examples=30, deadline=None)
@given(cases())
def test_a_step_leaves_nothing_to_the_next_one(case: tuple[int, list[Span], int, set[int]]) -> None:
    blocks, parts, seed, unused = case
    fresh, used = Rank(blocks), Rank(blocks)
    used.compute(parts[0], random_gradients(blocks, seed + 1), set())
    used.sums.settle(used.layout.views(used.layout.flatten(used.sums.parts[0][1])))

    for rank in (fresh, used):
        rank.compute(parts[0], random_gradients(blocks, seed), unused)

    assert [bits(flat) for flat in used.flat_parts().values()] == [bits(flat) for flat in fresh.flat_parts().values()]


def test_a_flat_gradient_reads_back_as_it_was_laid_out_with_zeros_between() -> None:
    layout = FlatLayout([nn.Parameter(torch.zeros(shape)) for shape in SHAPES])
    gradients = random_gradients(1, 3)[0]

    flat = layout.flatten(gradients)

    assert all(torch.equal(view, gradient) for view, gradient in zip(layout.views(flat), gradients, strict=True))
    assert flat.count_nonzero() == sum(gradient.count_nonzero() for gradient in gradients)
    assert layout.total % layout.step == 0


def test_a_parameter_that_no_block_reached_counts_as_zero() -> None:
    rank = Rank(2)
    rank.compute(Span(0, 2), random_gradients(2, 5), unused={0, 1})

    _, (first, *_) = rank.sums.parts[0]
    assert bits(first) == bits(torch.zeros(SHAPES[0]))


def test_the_reduced_gradient_is_what_the_optimizer_sees() -> None:
    rank = Rank(1)
    rank.compute(Span(0, 1), random_gradients(1, 7), unused=set())
    assert all(parameter.grad is None for parameter in rank.parameters)
    reduced = rank.layout.views(rank.layout.flatten(rank.sums.parts[0][1]))

    rank.sums.settle(reduced)

    assert all(parameter.grad is gradient for parameter, gradient in zip(rank.parameters, reduced, strict=True))
    assert not rank.sums.parts
    assert add_all(reduced, reduced)[1] is reduced[1]

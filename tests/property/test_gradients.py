"""Canonical gradients: whoever computes which blocks, on however many ranks, the sum has the bits of one rank's."""

import itertools
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from holdfast.model.plan import Span
from holdfast.worker.gradients import BlockSums, Bucket, GradientLayout, Gradients, add_all, separate
from holdfast.worker.trees import combine, even_cuts, subtrees

SHAPES = ((3, 5), (5,), (7,), ())


class Rank:
    """One rank's copy of a layer, of which a block may leave some parameters unused."""

    def __init__(self, blocks: int, part: Span, block_size: int = 1) -> None:
        self.parameters = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
        self.layout = GradientLayout(self.parameters)
        self.part, self.block_size = part, block_size
        self.sums = BlockSums(self.layout, blocks, block_size, part)

    def compute(self, gradients: list[Gradients], unused: set[int]) -> None:
        """A backward for each microbatch; each of a block is half as large as the one before."""
        self.sums.begin()
        for block in self.part:
            for factor in (2.0**-n for n in range(self.block_size)):
                used = self.parameters[1:] if block in unused else self.parameters
                given_ = gradients[block][1:] if block in unused else gradients[block]
                loss = sum(((p * g * factor).sum() for p, g in zip(used, given_, strict=True)), torch.zeros(()))
                loss.backward()
                separate([self.layout])
            self.sums.end_block(block)

    def flat_parts(self) -> dict[Span, Tensor]:
        (bucket,) = self.layout.buckets
        return {node: bucket.flat(gradients) for node, gradients in self.sums.parts}


@dataclass(frozen=True)
class Case:
    """`parts`: each pipeline's blocks. `unused`: blocks in which the first parameter is."""

    blocks: int
    block_size: int
    parts: list[Span]
    seed: int
    unused: set[int]

    def rank(self, part: Span) -> Rank:
        return Rank(self.blocks, part, self.block_size)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Cases of up to 17 blocks on up to 6 pipelines."""
    blocks = draw(st.integers(1, 17))
    cuts = sorted(draw(st.sets(st.integers(1, blocks - 1), max_size=5))) if blocks > 1 else []
    ends = [0, *cuts, blocks]
    parts = [Span(start, stop) for start, stop in itertools.pairwise(ends)]
    unused = draw(st.sets(st.integers(0, blocks - 1), max_size=3))
    return Case(blocks, draw(st.sampled_from([1, 2, 3])), parts, draw(st.integers(0, 2**32)), unused)


def random_gradients(blocks: int, seed: int) -> list[Gradients]:
    """Of very different sizes, so that the order of a sum shows in its bits; some are -0."""
    source = torch.Generator().manual_seed(seed)

    def one(shape: tuple[int, ...]) -> Tensor:
        scale = 10.0 ** torch.randint(-6, 7, shape, generator=source)
        value = torch.randn(shape, generator=source) * scale
        return torch.where(torch.rand(shape, generator=source) < 0.2, -0.0, value)

    return [tuple(one(shape) for shape in SHAPES) for _ in range(blocks)]


def add_in_place(left: Tensor, right: Tensor) -> Tensor:
    return left.add_(right)


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().numpy().tobytes()


@settings(max_examples=150)
@given(cases())
def test_the_sum_over_any_ranks_has_the_bits_of_the_sum_on_one(case: Case) -> None:
    blocks = case.blocks
    gradients = random_gradients(blocks, case.seed)
    alone = case.rank(Span(0, blocks))
    alone.compute(gradients, case.unused)
    assert [node for node, _ in alone.sums.parts] == [Span(0, blocks)]
    wanted = alone.flat_parts()[Span(0, blocks)]

    ranks = [case.rank(part) for part in case.parts]
    for rank in ranks:
        rank.compute(gradients, case.unused)
        assert tuple(node for node, _ in rank.sums.parts) == subtrees(blocks, rank.part)

    # As the reducer does: each rank combines one chunk of everyone's parts.
    flats = [rank.flat_parts() for rank in ranks]
    chunks = even_cuts(wanted.numel(), len(ranks), 4)
    pieces = [
        combine(
            blocks,
            {node: flat[chunk.start : chunk.stop].clone() for parts_of in flats for node, flat in parts_of.items()},
            add_in_place,
        )
        for chunk in chunks
    ]
    assert bits(torch.cat(pieces)) == bits(wanted)


@settings(max_examples=30)
@given(cases())
def test_a_step_leaves_nothing_to_the_next_one(case: Case) -> None:
    fresh, used = case.rank(case.parts[0]), case.rank(case.parts[0])
    used.compute(random_gradients(case.blocks, case.seed + 1), set())
    used.sums.settle(used.sums.parts[0][1])

    for rank in (fresh, used):
        rank.compute(random_gradients(case.blocks, case.seed), case.unused)

    assert [bits(flat) for flat in used.flat_parts().values()] == [bits(flat) for flat in fresh.flat_parts().values()]


@given(st.lists(st.sampled_from([0, 1, 1000, 200_000, 262_144, 300_000]), min_size=1, max_size=40))
@settings(max_examples=30)
def test_every_gradient_travels_in_one_bucket_and_comes_back_into_its_place(sizes: list[int]) -> None:
    parameters = [nn.Parameter(torch.zeros(size)) for size in sizes]
    gradients = tuple(torch.full((size,), float(index)) for index, size in enumerate(sizes))

    buckets = GradientLayout(parameters).buckets
    flats = [bucket.flat(gradients) for bucket in buckets]
    for bucket, flat in zip(buckets, flats, strict=True):
        assert flat.numel() == bucket.total
        bucket.write_back(flat.add_(0.5), gradients)

    assert sum(bucket.total for bucket in buckets) == sum(sizes)
    assert all(bool((gradient == index + 0.5).all()) for index, gradient in enumerate(gradients))


def test_a_large_gradient_travels_as_it_lies_unless_it_has_holes() -> None:
    shape = (1024, 512)
    bucket = Bucket([nn.Parameter(torch.zeros(shape))], [0])
    whole, turned = torch.ones(shape), torch.ones(shape[::-1]).t()

    assert bucket.flat((whole,)).data_ptr() == whole.data_ptr()
    flat = bucket.flat((turned,))
    assert flat.data_ptr() != turned.data_ptr()
    bucket.write_back(flat.mul_(3.0), (turned,))
    assert bool((turned == 3.0).all())


def test_a_parameter_that_no_block_reached_counts_as_zero() -> None:
    rank = Rank(2, Span(0, 2))
    rank.compute(random_gradients(2, 5), unused={0, 1})

    _, (first, *_) = rank.sums.parts[0]
    assert bits(first) == bits(torch.zeros(SHAPES[0]))


def test_the_reduced_gradient_is_what_the_optimizer_sees() -> None:
    rank = Rank(1, Span(0, 1))
    rank.compute(random_gradients(1, 7), unused=set())
    assert all(parameter.grad is None for parameter in rank.parameters)
    reduced = rank.sums.parts[0][1]

    rank.sums.settle(reduced)

    assert all(parameter.grad is gradient for parameter, gradient in zip(rank.parameters, reduced, strict=True))
    assert not rank.sums.parts
    assert add_all(reduced, reduced)[1] is reduced[1]


@pytest.mark.parametrize("block_size", [1, 2])
@pytest.mark.parametrize("join", ["sum of views", "parts of one"])
def test_gradients_that_autograd_leaves_in_one_buffer_are_summed_apart(join: str, block_size: int) -> None:
    parameters = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(6))]
    layout = GradientLayout(parameters)
    sums = BlockSums(layout, 4, block_size, Span(0, 4))
    given_ = [torch.full((12,), 2.0**n).index_fill(0, torch.arange(6), 3.0**n) for n in range(4 * block_size)]

    for microbatch, value in enumerate(given_):
        flat, other = parameters[0].view(-1), parameters[1].view(-1)
        if join == "sum of views":
            ((flat + other) * value[:6]).sum().backward()
        else:
            (torch.cat([flat, other]) * value).sum().backward()
        separate([layout])
        if (microbatch + 1) % block_size == 0:
            sums.end_block(microbatch // block_size)

    ((_, (first, second)),) = sums.parts
    total = torch.stack(given_).sum(0)
    assert torch.equal(first.view(-1), total[:6])
    assert torch.equal(second, total[:6] if join == "sum of views" else total[6:])


def test_a_negative_zero_that_only_one_sibling_reached_becomes_a_positive_one() -> None:
    parameters = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    layout = GradientLayout(parameters)
    sums = BlockSums(layout, 2, 1, Span(0, 2))

    (torch.cat([*parameters]) * torch.tensor([1.0, -0.0])).sum().backward()  # both gradients are parts of one buffer
    separate([layout])
    sums.end_block(0)
    parameters[0].sum().backward()
    separate([layout])
    sums.end_block(1)

    ((_, (first, second)),) = sums.parts
    assert bits(first) == bits(torch.tensor([2.0]))
    assert bits(second) == bits(torch.tensor([0.0]))

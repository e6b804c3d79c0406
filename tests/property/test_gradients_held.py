"""How many gradients the planner thinks a rank holds, against what the worker's own sums hold."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from holdfast.model.plan import Span
from holdfast.planner.memory import gradients_held, gradients_held_most
from holdfast.worker.gradients import BlockSums, GradientLayout


@given(st.integers(1, 40), st.integers(1, 3), st.data())
def test_it_is_the_most_that_block_sums_hold(blocks: int, block_size: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, blocks - 1))
    mine = Span(start, data.draw(st.integers(start + 1, blocks)))
    parameter = nn.Parameter(torch.zeros(1))
    sums = BlockSums(GradientLayout([parameter]), blocks, block_size, mine)
    sums.begin()
    most = 0
    for block in mine:
        parameter.sum().backward()
        most = max(most, len(sums.parts) + 1)
        sums.end_block(block)

    assert gradients_held(mine, blocks, block_size) == most
    assert most <= gradients_held_most(blocks)

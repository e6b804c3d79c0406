"""Ties between ranks: copies end up with the same gradient, however each lies in memory, and frozen ones with none."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from holdfast.model.ids import NodeId, SlotId
from holdfast.model.plan import Pipeline, Plan, Span, Stage
from holdfast.program import Layer, Program, Tied
from holdfast.worker.comm import WORLD, Comm, GroupSpec
from holdfast.worker.layers import initial_layer
from holdfast.worker.process_groups import GlooBackend
from holdfast.worker.pulse import Pulse
from holdfast.worker.ties import Ties

CPU = torch.device("cpu")
SHAPE = (3, 5)
# One stage a layer.
PLAN = Plan((Pipeline(tuple(Stage(SlotId(NodeId(f"n{i}"), 0), Span(i, i + 1)) for i in range(3)), Span(0, 1)),))


class Turned(nn.Module):
    """Its weight lies column by column."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(SHAPE[::-1]).t())


def flat() -> nn.Module:
    return nn.Linear(SHAPE[1], SHAPE[0], bias=False)


def frozen() -> nn.Module:
    return flat().requires_grad_(False)


def program(*builds: Callable[[], nn.Module]) -> Program:
    return Program(
        layers=tuple(Layer(name=f"layer{i}", build=build) for i, build in enumerate(builds)),
        loss=nn.functional.mse_loss,
        dataset=[],
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        global_batch=1,
        microbatch=1,
        tied=(Tied(a="layer0.weight", b="layer1.weight"), Tied(a="layer1.weight", b="layer2.weight")),
    )


def gradients(made: Program) -> list[Tensor | None]:
    """Of each rank's layer after a sum, where rank r had 10^r times 0, 1, 2, ... in the order of rows."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))

    def one(rank: int) -> Tensor | None:
        comm = Comm(GlooBackend("127.0.0.1"), "127.0.0.1", store.port, 1, b"key", Pulse(None))
        comm.form([GroupSpec(name=WORLD, rank=rank, size=3)])
        layer = initial_layer(made, rank, CPU)
        for parameter in layer.trained.values():
            (parameter * (10.0**rank * torch.arange(15.0).view(SHAPE))).sum().backward()
        Ties(comm, made, PLAN, rank, {rank: layer}).sum()
        return layer.parameters["weight"].grad

    with ThreadPoolExecutor(3) as pool:
        return [future.result(timeout=30) for future in [pool.submit(one, rank) for rank in range(3)]]


@pytest.mark.parametrize("builds", [(flat, flat, flat), (flat, Turned, flat), (Turned, flat, Turned)])
def test_every_copy_has_the_sum_of_all(builds: tuple[Callable[[], nn.Module], ...]) -> None:
    wanted = 111 * torch.arange(15.0).view(SHAPE)

    for gradient in gradients(program(*builds)):
        assert gradient is not None
        assert torch.equal(gradient, wanted)


def test_frozen_parameters_may_be_tied() -> None:
    assert gradients(program(frozen, frozen, frozen)) == [None, None, None]

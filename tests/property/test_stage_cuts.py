"""Where a model is cut into stages changes no bit of any gradient."""

import pytest
import torch
from torch import Tensor, nn

from holdfast.model.facts import ActivationSpec
from holdfast.program import Layer, Program
from holdfast.worker.layers import HeldLayer, initial_layer
from holdfast.worker.pulse import Pulse
from holdfast.worker.stage import StageModule

CPU = torch.device("cpu")
WIDTH = 33


class Fork(nn.Module):
    """Gives a tensor twice, as the residual stream and the first embedding often are."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.linear(x)
        return h, h, torch.tanh(h)


class Mix(nn.Module):
    """Uses all it is given several times, and passes the second on as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor, first: Tensor, third: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.a(x) * first + self.b(x) * 3.1 + third * x
        return x + self.c(first) * 0.7 + first, first, self.b(third) + first * x


class Join(nn.Module):
    """The sum of all."""

    def forward(self, x: Tensor, first: Tensor, third: Tensor) -> Tensor:
        return x * first + torch.sigmoid(third) + x


def layers(program: Program) -> list[HeldLayer]:
    return [initial_layer(program, index, CPU) for index in range(len(program.layers))]


def gradients(program: Program, cut: int | None) -> list[Tensor]:
    """Of all parameters, with a cut before layer `cut`, as two ranks compute them."""
    held = layers(program)
    parts = [held] if cut is None else [held[:cut], held[cut:]]
    stages = [
        StageModule(program, part, ActivationSpec(tensors=(), is_tuple=index > 0), Pulse(None).beat, CPU)
        for index, part in enumerate(parts)
    ]
    x = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(1))
    if cut is None:
        out = stages[0](x)
        assert isinstance(out, Tensor)
        out.square().sum().backward()
    else:
        sent = stages[0](x)
        assert isinstance(sent, tuple)
        received = tuple(tensor.detach().requires_grad_() for tensor in sent)
        out = stages[1](*received)
        assert isinstance(out, Tensor)
        out.square().sum().backward()
        torch.autograd.backward(sent, [tensor.grad for tensor in received])
    return [p.grad for layer in held for p in layer.trained.values() if p.grad is not None]


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_tensor_that_is_passed_on_twice_has_the_same_gradient_wherever_the_cut_is(cut: int) -> None:
    program = Program(
        layers=(
            Layer(name="fork", build=Fork),
            *(Layer(name=f"mix-{number}", build=Mix) for number in range(3)),
            Layer(name="join", build=Join),
        ),
        loss=nn.functional.mse_loss,
        dataset=[(torch.zeros(WIDTH), torch.zeros(WIDTH))],
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        global_batch=1,
        microbatch=1,
        seed=3,
    )

    whole, parted = gradients(program, None), gradients(program, cut)

    assert len(whole) == 2 + 3 * 6
    assert all(torch.equal(a, b) for a, b in zip(whole, parted, strict=True))

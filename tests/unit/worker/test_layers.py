"""A layer is the same wherever it is built, and a copy that takes over its state goes on as it would."""

import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast.program import Layer, Program, Tied
from holdfast.worker.layers import HeldLayer, blank_layer, initial_layer
from holdfast.worker.modules import survives_emptying

CPU = torch.device("cpu")
INPUT = torch.linspace(-1, 1, 32).view(4, 8)


class Shared(nn.Module):
    """One parameter, one buffer and one module under two names each, and a buffer that is the parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.weight = self.a.weight
        self.again = self.a
        self.mask: Tensor
        self.register_buffer("mask", torch.rand(8))
        self.b.register_buffer("mask", self.mask, persistent=False)
        self.register_buffer("weight", self.a.weight)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.b(self.again(x)) * self.mask
        return result


class Beside(nn.Module):
    """Keeps `value` as an attribute and has `use(value)`, a tensor, added to what it returns."""

    def __init__(self, value: Any, use: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.value, self.use = value, use

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x) + self.use(self.value)
        return result


class Held:
    """An object of the user's own."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Views(nn.Module):
    """A buffer that follows the weight, since it is a view of it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.first: Tensor
        self.register_buffer("first", self.inner.weight.detach()[0])

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x) + self.first
        return result


def hooked() -> nn.Module:
    module = nn.Linear(8, 8)
    module.weight.register_hook(lambda gradient: gradient * 0.5)
    return module


def marked() -> nn.Module:
    module = nn.Linear(8, 8)
    module.bias.no_decay = True  # type: ignore[attr-defined]
    return module


def adamw(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """As is common: parameters are told apart by an attribute that the model gives them."""
    marked = [parameter for parameter in parameters if hasattr(parameter, "no_decay")]
    others = [parameter for parameter in parameters if not hasattr(parameter, "no_decay")]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": marked, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.1, weight_decay=0.5)


def program(*builds: Callable[[], nn.Module], tied: tuple[Tied, ...] = ()) -> Program:
    return Program(
        layers=tuple(Layer(name=f"layer{i}", build=build) for i, build in enumerate(builds)),
        loss=nn.functional.mse_loss,
        dataset=[(torch.zeros(8), torch.zeros(8))] * 8,
        optimizer=adamw,
        global_batch=4,
        microbatch=2,
        tied=tied,
    )


def step(layer: HeldLayer) -> Tensor:
    """One optimizer step; what the layer made before."""
    for parameter in layer.trained.values():
        parameter.grad = None
    output: Tensor = layer.module(INPUT)
    output.square().sum().backward()
    layer.apply(1.0)
    return output.detach()


class Recurrent(nn.Module):
    """torch's recurrent modules keep a list of their parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.GRU(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.inner(x)[0]
        return output


BUILDS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.LayerNorm(8)),
    "shared": Shared,
    "views": Views,
    "hook": hooked,
    "attribute of a parameter": marked,
    "recurrent": Recurrent,
    "attribute": lambda: Beside(torch.ones(8), lambda value: value),
    "list": lambda: Beside([torch.ones(8)], lambda value: value[0]),
    "nested": lambda: Beside({"a": (1, [torch.ones(8)])}, lambda value: value["a"][1][0]),
    "object": lambda: Beside(Held(torch.ones(8)), lambda value: value.tensor),
    "partial": lambda: Beside(functools.partial(torch.add, torch.ones(8)), lambda value: value(1)),
    "closure": lambda: Beside((lambda tensor: lambda: tensor)(torch.ones(8)), lambda value: value()),
    "module in a list": lambda: Beside([nn.Linear(8, 8)], lambda value: value[0].weight.detach()[0]),
}


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS.keys())
def test_a_copy_that_took_over_a_layers_state_goes_on_as_it_does(build: Callable[[], nn.Module]) -> None:
    layer = initial_layer(program(build), 0, CPU)
    step(layer)
    copy = blank_layer(program(build), 0, CPU)
    copy.load({name: tensor.clone() for name, tensor in layer.tensors().items()}, layer.scalars())

    for _ in range(2):
        assert copy.tensors().keys() == layer.tensors().keys()
        assert all(torch.equal(tensor, copy.tensors()[name]) for name, tensor in layer.tensors().items())
        assert torch.equal(step(copy), step(layer))


def test_what_has_two_names_is_one_tensor_in_a_copy_too() -> None:
    for layer in (initial_layer(program(Shared), 0, CPU), blank_layer(program(Shared), 0, CPU)):
        module: Any = layer.module
        assert module.b.weight is module.a.weight is module.weight
        assert module.b.mask is module.mask
        assert module.again is module.a
        assert "weight" in module._buffers
        assert [name for name, _ in module.named_parameters()] == ["a.weight", "a.bias", "b.bias"]
        assert {"weight", "b.weight", "again.weight"} < set(module.state_dict())
        assert "b.mask" not in module.state_dict()


def test_an_ordinary_layer_skips_its_initialisation() -> None:
    with torch.device("meta"):
        ordinary = [
            nn.Sequential(nn.Conv2d(3, 3, 1), nn.GroupNorm(1, 3), nn.Embedding(3, 3), nn.Dropout(), nn.Flatten()),
            nn.TransformerEncoderLayer(8, 2),
            Shared(),
            Beside({"width": 8, "names": ["a", "b"]}, nn.functional.relu),
        ]
    assert all(map(survives_emptying, ordinary))


class Drawn(nn.Linear):
    """Starts from numbers that numpy and Python drew."""

    def __init__(self) -> None:
        super().__init__(8, 8)
        with torch.no_grad():
            self.weight.copy_(torch.from_numpy(np.random.rand(8, 8)))
            self.bias.fill_(random.random())


def test_what_a_factory_draws_beside_torch_is_the_same_wherever_it_is_built() -> None:
    one, other = (initial_layer(program(Drawn), 0, CPU) for _ in range(2))
    assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in one.tensors().items())


def square() -> nn.Module:
    return nn.Linear(8, 8)


@pytest.mark.parametrize(
    "pairs",
    [
        pytest.param(((0, 1), (1, 2)), id="first to last"),
        pytest.param(((1, 2), (0, 1)), id="last first"),
        pytest.param(((0, 1), (2, 1)), id="two onto one"),
        pytest.param(((2, 0), (2, 1)), id="one onto two"),
    ],
)
def test_all_of_a_chain_of_ties_start_as_the_first_named(pairs: tuple[tuple[int, int], ...]) -> None:
    tied = tuple(Tied(a=f"layer{a}.weight", b=f"layer{b}.weight") for a, b in pairs)
    made = program(square, square, square, tied=tied)
    first = initial_layer(program(square, square, square), pairs[0][0], CPU).parameters["weight"]

    for index in range(3):
        layer = initial_layer(made, index, CPU)
        assert torch.equal(layer.parameters["weight"], first)
        assert index == pairs[0][0] or not torch.equal(layer.parameters["bias"], first[0])


def test_a_second_parameter_of_a_layer_may_be_tied_to_the_first_by_way_of_another() -> None:
    def two() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))

    tied = (Tied(a="layer0.0.weight", b="layer1.weight"), Tied(a="layer1.weight", b="layer0.1.weight"))
    layers = [initial_layer(program(two, square, tied=tied), index, CPU).parameters for index in range(2)]

    assert torch.equal(layers[0]["0.weight"], layers[0]["1.weight"])
    assert torch.equal(layers[0]["0.weight"], layers[1]["weight"])

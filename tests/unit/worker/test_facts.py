"""Inspection on the meta device: what it measures, and that a Program that cannot train is refused by name."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast.errors import ProgramError
from holdfast.model.facts import TensorSpec
from holdfast.program import Layer, Program, Tied
from holdfast.worker.data import collate
from holdfast.worker.facts import inspect

SAMPLES = [(torch.zeros(4), torch.zeros(2)) for _ in range(8)]


class Split(nn.Module):
    """A tuple of a float and an integer tensor out of one tensor."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x.sum(-1).long()


class Join(nn.Module):
    """Takes the tuple as two arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 2)
        self.project = nn.Linear(4, 2, bias=False)
        self.register_buffer("mask", torch.from_numpy(np.ones(3)))

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        result: Tensor = self.project(x) + self.table(index)
        return result


class Returns(nn.Module):
    """Has a parameter and returns whatever it is told to make of its input."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Any:
        return self.make(x)


def make(*builds: Callable[[], Any], **changes: Any) -> Program:
    fields: dict[str, Any] = {
        "layers": tuple(Layer(name=f"layer{i}", build=build) for i, build in enumerate(builds)),
        "loss": nn.functional.mse_loss,
        "dataset": SAMPLES,
        "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        "global_batch": 6,
        "microbatch": 3,
    }
    return Program(**fields | changes)


def linear() -> nn.Module:
    return nn.Linear(4, 2)


def square() -> nn.Module:
    return nn.Linear(4, 4)


def frozen_square() -> nn.Module:
    return square().requires_grad_(False)


def frozen() -> nn.Module:
    return nn.Linear(4, 2).requires_grad_(False)


def test_each_layer_is_measured_for_one_microbatch() -> None:
    facts = inspect(make(lambda: nn.Linear(4, 4), Split, Join))

    first, split, join = facts.layers
    assert [(parameter.name, parameter.spec.shape) for parameter in first.parameters] == [
        ("weight", (4, 4)),
        ("bias", (4,)),
    ]
    assert (first.param_count, first.param_bytes, first.state_bytes) == (20, 80, 240)
    assert (first.flops, first.cost) == (2 * 3 * 4 * 4, 96.0)
    assert str(first.input) == str(first.output) == "float32[3, 4]"
    assert (split.param_bytes, split.flops, split.cost) == (0, 0, 1.0)
    assert split.output.is_tuple
    assert split.output.tensors == (
        TensorSpec(shape=(3, 4), dtype="float32", requires_grad=True),
        TensorSpec(shape=(3,), dtype="int64"),
    )
    assert split.output_bytes == 3 * 4 * 4 + 3 * 8
    assert join.input == split.output
    assert join.buffer_bytes == 3 * 8
    assert (facts.microbatches, facts.dataset_size, str(facts.target)) == (2, 8, "float32[3, 2]")


def test_inspection_makes_no_real_weights_and_draws_no_random_number() -> None:
    before = torch.get_rng_state()
    inspect(make(lambda: nn.Sequential(nn.Linear(4, 100_000), nn.Dropout(0.5), nn.Linear(100_000, 2))))

    assert torch.equal(before, torch.get_rng_state())


def test_a_layer_that_does_not_fit_is_refused_with_what_it_got_and_from_whom() -> None:
    with pytest.raises(ProgramError, match=r"'layer1' does not accept what layer 'layer0' made, float32\[3, 2\]: .*"):
        inspect(make(linear, linear))
    with pytest.raises(ProgramError, match=r"'layer0' does not accept what the dataset made, float32\[3, 4\]: "):
        inspect(make(lambda: nn.Linear(5, 2)))
    with pytest.raises(ProgramError, match=r"'layer1' does not accept .* a tuple \(float32\[3, 4\], int64\[3\]\)"):
        inspect(make(Split, linear))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: 1 / 0, "'layer0': its factory raised ZeroDivisionError on the meta device"),
        (lambda: 3, "'layer0': its factory returned int; should be an nn.Module"),
        (lambda: nn.LazyLinear(2), "'layer0': its parameter weight has no shape before the first forward"),
        (lambda: Returns(lambda x: [x]), "'layer0': its output is list; should be a tensor or a tuple of tensors"),
        (lambda: Returns(lambda x: (x, 1)), r"'layer0': its output is a tuple of \(Tensor, int\); should be"),
        (lambda: Returns(lambda x: x), r"'layer0': it has trainable parameters \(weight, ...\) but its output"),
        (frozen, "no parameter of any layer requires a gradient"),
    ],
)
def test_a_layer_that_cannot_be_used_is_refused_by_name(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        inspect(make(build))


def test_a_factory_must_build_anew_and_alike_at_each_call() -> None:
    shared = nn.Linear(4, 2)
    widths = iter(range(2, 100))

    with pytest.raises(ProgramError, match=r"'layer0': its factory returned the same parameters twice; .* use Tied"):
        inspect(make(lambda: shared))
    with pytest.raises(ProgramError, match=r"'layer0': two calls .* different parameters \(bias, weight\)"):
        inspect(make(lambda: nn.Linear(4, next(widths))))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.functional.nll_loss, r"loss: it does not accept the output of layer 'layer0', float32\[3, 2\], with the"),
        (lambda output, target: output - target, r"loss: it returned float32\[3, 2\]; should be a scalar"),
        (lambda output, target: 0.0, "loss: it returned float; should be a scalar"),
        (lambda output, target: output.detach().sum(), "loss: no gradient flows from it"),
    ],
)
def test_a_loss_that_cannot_be_used_is_refused(loss: Callable[[Any, Any], Any], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        inspect(make(linear, loss=loss))


class Broken:
    """Raises at each access."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        raise OSError("disk on fire")


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (SAMPLES[:5], "dataset: it has 5 samples, fewer than one global batch of 6"),
        ([torch.zeros(4)] * 8, r"dataset\[0\]: float32\[4\] given; should be a pair \(input, target\)"),
        ([(torch.zeros(4), 1)] * 8, r"dataset\[0\]: its target is int; should be a tensor or a tuple of tensors"),
        ([(np.zeros(4), torch.zeros(2))] * 8, r"dataset\[0\]: its input is ndarray; should be .*torch.as_tensor"),
        (
            [*SAMPLES, (torch.zeros(5), torch.zeros(2))],
            r"dataset\[8\]: its input is float32\[5\], but that of dataset\[0\] is float32\[4\]",
        ),
        (
            [SAMPLES[0], (torch.zeros(4), torch.zeros(2, dtype=torch.int64)), *SAMPLES],
            r"dataset\[1\]: its target is int64\[2\], but that of dataset\[0\] is float32\[2\]",
        ),
        (Broken(), "dataset: reading its samples raised OSError: disk on fire"),
    ],
)
def test_a_dataset_that_cannot_be_used_is_refused(dataset: Any, message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        inspect(make(linear, dataset=dataset))


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ("layer0.wait", "layer1.weight", r"tied\[0\].a: layer 'layer0' has no parameter 'wait'; it has weight, bias"),
        ("layer0.weight", "layer2.weight", r"layer0.weight is float32\[4, 4\] and layer2.weight is float32\[2, 4\];"),
        ("layer0.weight", "layer1.weight", r"is float32\[4, 4\] and layer1.weight is float32\[4, 4\] \(frozen\)"),
    ],
)
def test_tied_parameters_must_exist_and_be_alike(a: str, b: str, message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        inspect(make(square, frozen_square, linear, tied=(Tied(a=a, b=b),)))


class Keeping(torch.optim.Optimizer):
    """Keeps a value for each parameter, and steps nowhere."""

    def __init__(self, value: object, parameters: Any, defaults: dict[str, Any] | None = None) -> None:
        super().__init__(parameters, {"lr": 0.1} if defaults is None else defaults)
        self._value = value

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["kept"] = self._value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": lambda parameters: None}, "optimizer: it returned NoneType; should be a torch.optim.Optimizer"),
        ({"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=-1)}, "raised ValueError .* Invalid learning"),
        (
            {"optimizer": torch.optim.LBFGS},
            "optimizer: step.. of LBFGS raised TypeError .* whose step needs no closure",
        ),
        (
            {"optimizer": lambda parameters: torch.optim.SparseAdam(parameters)},
            "optimizer: step.. of SparseAdam raised RuntimeError .* takes dense gradients",
        ),
        ({"optimizer": lambda parameters: Keeping({1, 2}, parameters)}, "Keeping keeps 'kept', a set, for a parameter"),
        ({"optimizer": lambda parameters: Keeping(1, parameters, {})}, "parameter groups without 'lr'"),
        ({"lr_schedule": lambda step: 1 / step}, "lr_schedule: it raised ZeroDivisionError for step 0"),
        ({"lr_schedule": lambda step: float("nan")}, "lr_schedule: it returned nan for step 0; .* 0 or more"),
        ({"lr_schedule": lambda step: float("inf")}, "lr_schedule: it returned inf for step 0; .* 0 or more"),
        ({"lr_schedule": lambda step: -0.1}, "lr_schedule: it returned -0.1 for step 0; .* 0 or more"),
        ({"lr_schedule": lambda step: "0.1"}, "lr_schedule: it returned '0.1' for step 0; should be a number"),
    ],
)
def test_an_optimizer_or_schedule_that_cannot_be_used_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        inspect(make(linear, **changes))


def test_optimizers_of_torch_that_step_each_parameter_by_itself_are_accepted() -> None:
    for kind in (torch.optim.AdamW, torch.optim.NAdam, torch.optim.Adagrad, torch.optim.Rprop, torch.optim.Adafactor):
        inspect(make(linear, optimizer=lambda parameters, kind=kind: kind(parameters, lr=0.1)))


def test_the_rate_of_the_last_step_is_asked_for_too() -> None:
    program = make(linear, lr_schedule=lambda step: 1.0 - step / 10)

    inspect(program, steps=11)
    with pytest.raises(ProgramError, match=r"lr_schedule: it returned -0.\d+ for step 11"):
        inspect(program, steps=12)


def test_collate_stacks_samples_and_always_gives_inputs_as_a_tuple() -> None:
    singles = [(torch.tensor([i]), torch.tensor(i)) for i in range(5)]
    tuples = [((torch.tensor(i), torch.tensor([i, i])), (torch.tensor(i),)) for i in range(5)]

    inputs, target = collate(singles, [4, 1])
    assert [tensor.tolist() for tensor in inputs] == [[[4], [1]]]
    assert isinstance(target, Tensor)
    assert target.tolist() == [4, 1]

    inputs, target = collate(tuples, [4, 1])
    assert [tensor.tolist() for tensor in inputs] == [[4, 1], [[4, 4], [1, 1]]]
    assert isinstance(target, tuple)
    assert target[0].tolist() == [4, 1]


class Counting(nn.Module):
    """Counts its forwards in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        output: Tensor = self.inner(x)
        return output


@pytest.mark.parametrize(
    ("module", "buffer"), [(lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), "1."), (Counting, "calls")]
)
def test_a_layer_whose_forward_changes_a_buffer_is_refused(module: Callable[[], nn.Module], buffer: str) -> None:
    with pytest.raises(ProgramError, match=f"changes its buffer .*{buffer}.*GroupNorm"):
        inspect(make(module))


def first_in_place() -> nn.Module:
    return nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4))


class AddsToItsSecond(nn.Module):
    """Changes a view of its second input where autograd does not see it."""

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        index.view(-1)[0] += 1
        return x


@pytest.mark.parametrize(
    ("builds", "message"),
    [
        ((square, first_in_place), "'layer1': its forward changes its input, which layer 'layer0' made, in place"),
        ((first_in_place,), "'layer0': its forward changes its input, which the dataset made, in place"),
        ((square, Split, AddsToItsSecond), "'layer2': its forward changes part 1 of its input, which layer 'layer1'"),
    ],
)
def test_a_layer_that_changes_its_input_is_refused(builds: tuple[Callable[[], nn.Module], ...], message: str) -> None:
    with pytest.raises(ProgramError, match=f"{message}.*ReLU.inplace=False."):
        inspect(make(*builds))


def test_a_layer_may_change_in_place_what_it_made() -> None:
    inspect(make(lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True)), linear))


class Looks(nn.Module):
    """Looks rows up, by `how(table, index)`."""

    def __init__(self, how: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(5, 4))
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self.table, x.long())


@pytest.mark.parametrize(
    "how",
    [
        lambda table, index: nn.functional.embedding(index, table, sparse=True) * 2,
        lambda table, index: nn.functional.embedding_bag(index, table, mode="sum", sparse=True),
        lambda table, index: torch.gather(table, 0, index, sparse_grad=True),
    ],
)
def test_sparse_gradients_are_refused(how: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(ProgramError, match=r"'layer0': .* would make a sparse gradient, .* use sparse=False"):
        inspect(make(lambda: Looks(how)))


def test_what_is_frozen_makes_no_gradient_sparse_or_not() -> None:
    def look(table: Tensor, index: Tensor) -> Tensor:
        return nn.functional.embedding(index, table.detach(), sparse=True).sum(1)[:, :2] + table.sum()

    inspect(make(lambda: Looks(look)))

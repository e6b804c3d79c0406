"""A small Program whose steps take milliseconds, with a switch for every way user code can misbehave."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from holdfast.program import Layer, Program, Tied

WIDTH = 16
CLASSES = 8


class Samples:
    """Sample `i` is a function of `i`; `fail_at` makes that one raise."""

    def __init__(self, size: int, fail_at: int | None) -> None:
        self._size, self._fail_at = size, fail_at

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index == self._fail_at:
            raise OSError(f"sample {index} cannot be read")
        generator = torch.Generator().manual_seed(index)
        return torch.randint(CLASSES, (4,), generator=generator), torch.randint(CLASSES, (4,), generator=generator)


class Embed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(CLASSES, WIDTH)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.table(tokens), tokens


class Block(nn.Module):
    """Takes and returns (activation, tokens): a tuple with an integer tensor. Misbehaves as told."""

    def __init__(self, trouble: Callable[[], None] | None, pause_s: float) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.drop = nn.Dropout(0.2)
        self._trouble, self._pause_s = trouble, pause_s

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        if not x.is_meta:
            time.sleep(self._pause_s)
            if self._trouble is not None:
                self._trouble()
        return x + self.drop(functional.gelu(self.inner(x))), tokens


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(WIDTH, CLASSES, bias=False)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        logits: Tensor = self.out(x)
        return logits


class Trouble:
    """Acts once its file says so, or in every process at the given forward."""

    def __init__(self, kind: str, at: int, once: str | None) -> None:
        self._kind, self._at, self._once, self._seen = kind, at, once, 0

    def __call__(self) -> None:
        self._seen += 1
        if self._seen < self._at or (self._once is not None and not self._first()):
            return
        if self._kind == "raise":
            raise ValueError("the forward is unhappy")
        if self._kind == "die":
            os._exit(7)
        if self._kind == "hang":
            time.sleep(3600)

    def _first(self) -> bool:
        assert self._once is not None
        try:
            Path(self._once).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class _Unhappy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise KeyError("the backward is unhappy")


def _wait_while_there(file: Path) -> None:
    while file.exists():
        time.sleep(0.01)  # polling a file; who made it takes it away


def program(
    *,
    blocks: int = 4,
    tied: bool = False,
    trouble: str | None = None,
    trouble_at: int = 20,
    trouble_once: str | None = None,
    pause_s: float = 0.0,
    holds: str | None = None,
    optimizer: str = "adamw",
    seed: int = 3,
) -> Program:
    """`pause_s`: seconds a block's forward sleeps, so that a step lasts long enough to be interrupted.
    `holds`: a folder; while it has a file of that name, no worker applies the step after so many."""
    acts = Trouble(trouble, trouble_at, trouble_once) if trouble in ("raise", "die", "hang") else None

    def block(index: int) -> Callable[[], nn.Module]:
        return lambda: Block(acts if index == 1 else None, pause_s)

    layers = [Layer(name="embed", build=Embed)]
    layers += [Layer(name=f"block-{index}", build=block(index)) for index in range(blocks)]
    layers.append(Layer(name="head", build=Head))

    def loss(output: Tensor, target: Tensor) -> Tensor:
        if trouble == "backward" and not output.is_meta:
            output = _Unhappy.apply(output)  # type: ignore[no-untyped-call]  # torch's Function.apply has no types
        value = functional.cross_entropy(output.flatten(0, 1), target.flatten())
        return value * float("nan") if trouble == "nan" else value

    def lr_schedule(step: int) -> float:
        if holds is not None:
            _wait_while_there(Path(holds, str(step)))
        return min(1.0, (step + 1) / 5)

    def make_optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        if optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
        return torch.optim.AdamW(parameters, lr=1e-2)

    return Program(
        layers=tuple(layers),
        loss=loss,
        dataset=Samples(512, fail_at=5 if trouble == "dataset" else None),
        optimizer=make_optimizer,
        lr_schedule=lr_schedule,
        clip_grad_norm=0.5,
        global_batch=16,
        microbatch=2,
        seed=seed,
        tied=(Tied(a="embed.table.weight", b="head.out.weight"),) if tied else (),
    )

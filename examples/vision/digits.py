"""A small residual convolutional net on scikit-learn's handwritten digits.

Shows what the GPT does not: a tuple between layers, one of its tensors of integers, and SGD with momentum. No
BatchNorm: its running statistics depend on which samples a process saw, so on the layout; GroupNorm has none.
"""

import functools

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from holdfast.program import Layer, Program

CLASSES = 10
INK_BUCKETS = 8


def program(
    *,
    channels: int = 32,
    blocks: int = 4,
    learning_rate: float = 0.05,
    halve_every: int = 40,
    global_batch: int = 64,
    microbatch: int = 8,
    seed: int = 0,
) -> Program:
    """The Program that digits.yaml names."""
    return Program(
        layers=(
            Layer(name="stem", build=lambda: Stem(channels)),
            *(Layer(name=f"residual-{i}", build=lambda: Residual(channels)) for i in range(blocks)),
            Layer(name="head", build=lambda: Head(channels)),
        ),
        loss=nn.functional.cross_entropy,
        dataset=Digits(),
        optimizer=functools.partial(torch.optim.SGD, lr=learning_rate, momentum=0.9, nesterov=True),
        lr_schedule=lambda step: 0.5 ** (step // halve_every),
        global_batch=global_batch,
        microbatch=microbatch,
        seed=seed,
    )


class Stem(nn.Module):
    """An image to its features, and to how much ink it holds: a bucket number that all later layers look up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, channels, kernel_size=3, padding=1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        ink = (images.mean(dim=(1, 2, 3)) * 2 * INK_BUCKETS).long().clamp(max=INK_BUCKETS - 1)
        return self.convolution(images), ink


class Residual(nn.Module):
    """Two convolutions on a residual branch, whose channels are scaled by the image's ink bucket."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, channels)
        self.first = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.second = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.scale = nn.Embedding(INK_BUCKETS, channels)
        nn.init.ones_(self.scale.weight)

    def forward(self, features: Tensor, ink: Tensor) -> tuple[Tensor, Tensor]:
        branch = self.second(self.first(self.norm(features).relu()).relu())
        return features + branch * self.scale(ink)[:, :, None, None], ink


class Head(nn.Module):
    """Average over each quarter of the image, then a linear classifier; the ink is of no more use."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, channels)
        self.classifier = nn.Linear(channels * 4, CLASSES)

    def forward(self, features: Tensor, _ink: Tensor) -> Tensor:
        quarters = nn.functional.adaptive_avg_pool2d(self.norm(features).relu(), 2)
        logits: Tensor = self.classifier(quarters.flatten(1))
        return logits


class Digits(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """1,797 images of 8 x 8 pixels in [0, 1], and the digit that each shows."""

    def __init__(self) -> None:
        digits = load_digits()
        self.images = torch.as_tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        self.digits = torch.as_tensor(digits.target, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.digits)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.digits[index]

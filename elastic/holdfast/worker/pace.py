"""What layers take on this slot of late, and when that is news to the others.

A step's mean over its microbatches, then the median over the last steps: a few bad ones do not move it. A device that
computes by itself is not waited for: it marks its own time, which is read once the step is over.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from statistics import median
from typing import TypeAlias

import torch

# Of so many steps the median is taken. Less than that is known once it took so long, in so many steps.
_STEPS, _STEPS_LEAST, _KNOWN_S = 20, 3, 3.0
# What was told is not true any more once all layers together take so much longer or shorter, a share.
_NEWS = 0.1

Mark: TypeAlias = float | torch.cuda.Event


def _cuda_mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds(begun: Mark, ended: Mark) -> float:
    if isinstance(begun, torch.cuda.Event):
        assert isinstance(ended, torch.cuda.Event)
        return float(begun.elapsed_time(ended)) / 1000
    assert isinstance(ended, float)
    return ended - begun


class LayerClock:
    """Forward and backward of each layer, through one step."""

    def __init__(self, device: torch.device) -> None:
        self.mark: Callable[[], Mark] = _cuda_mark if device.type == "cuda" else time.perf_counter
        self._spans: list[tuple[int, Mark, Mark]] = []
        self._mark: Mark = 0.0

    def begin_step(self) -> None:
        self._spans.clear()

    def forward(self, layer: int, begun: Mark) -> None:
        """It just ended."""
        self._spans.append((layer, begun, self.mark()))

    def start_backward(self) -> None:
        self._mark = self.mark()

    def backward(self, layer: int) -> None:
        """The backward of `layer` just ended; the layers after it have marked theirs already."""
        begun, self._mark = self._mark, self.mark()
        self._spans.append((layer, begun, self._mark))

    def seconds(self) -> dict[int, float]:
        """Of all microbatches of the step, by layer. Everything that was asked of the device has to be done."""
        found: dict[int, float] = {}
        for layer, begun, ended in self._spans:
            found[layer] = found.get(layer, 0.0) + _seconds(begun, ended)
        return found


class Pace:
    """Of a generation's steps. `told`: by layer, what others know of this slot already."""

    def __init__(self, told: Mapping[int, float] | None = None) -> None:
        self._steps: deque[dict[int, float]] = deque(maxlen=_STEPS)
        self._begun_s: float | None = None
        self._looked_s = 0.0
        self._told = dict(told or {})

    def add(self, layer_s: dict[int, float], now_s: float) -> None:
        """One more step; what a microbatch took in it, by layer. The first one is not like the others."""
        if self._begun_s is None:
            self._begun_s = self._looked_s = now_s
            return
        self._steps.append(layer_s)

    def known(self, now_s: float) -> dict[int, float]:
        """What a microbatch takes by now, by layer; nothing while too little was seen."""
        if self._begun_s is None or len(self._steps) < _STEPS_LEAST or now_s < self._begun_s + _KNOWN_S:
            return {}
        return {layer: median(step[layer] for step in self._steps) for layer in sorted(self._steps[-1])}

    def news(self, now_s: float) -> dict[int, float]:
        """The same, where others have to be told."""
        if now_s < self._looked_s + _KNOWN_S:
            return {}
        self._looked_s = now_s
        known = self.known(now_s)
        told_s = sum(self._told.get(layer, 0.0) for layer in known)
        if known.keys() <= self._told.keys() and abs(sum(known.values()) - told_s) <= _NEWS * told_s:
            return {}
        self._told = known
        return known

"""What a snapshot in RAM costs a training process, beside a plain copy of the same bytes and PyTorch's `async_save`.

All in this process and in turns, so that what disturbs the machine disturbs all alike.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn

from benchmarks.harness.results import median
from holdfast_checkpoint.layer_blob import LayerState
from holdfast_checkpoint.snapshot import Snapshotter, Taken

_LAYERS = 24
_PARAMETERS = 12  # of a layer, with two moments and a counter each
_STEP_S = 0.5  # about; of the training that a copy overlaps


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    wall_s: float
    cpu_s: float


def make_state(total_bytes: int) -> dict[int, LayerState]:
    """Of a model in float32 with Adam."""
    numbers = total_bytes // 4 // _LAYERS // _PARAMETERS // 3
    layers = {}
    for layer in range(_LAYERS):
        tensors: dict[str, Tensor] = {}
        for parameter in range(_PARAMETERS):
            for kind in ("model", "optim.exp_avg", "optim.exp_avg_sq"):
                tensors[f"{kind}.weight.{parameter}"] = torch.rand(numbers)
            tensors[f"optim.step.weight.{parameter}"] = torch.tensor(1.0)
        layers[layer] = LayerState(name=f"block.{layer}", tensors=tensors, scalars={})
    return layers


def measure_snapshots(total_bytes: int = 1 << 30, rounds: int = 7) -> dict[str, Any]:
    """Stall of `begin`, and the cost of the whole with nothing else to do, against `Tensor.copy_` of the same tensors
    to memory that is there already. The first two snapshots, whose memory comes from the system, are told apart."""
    layers = make_state(total_bytes)
    tensors = [tensor for layer in layers.values() for tensor in layer.tensors.values()]
    targets = [torch.zeros_like(tensor) for tensor in tensors]
    snapshots = _Snapshots(layers)
    copies: list[Cost] = [_copy(tensors, targets)]
    first = [snapshots.take().taken.copy_s for _ in range(2)]
    stalls: list[float] = []
    taken: list[Taken] = []
    for _ in range(rounds):
        copies.append(_copy(tensors, targets))
        round_ = snapshots.take()
        stalls.append(round_.stall_s)
        taken.append(round_.taken)
    shared_bytes = snapshots.shared_bytes()
    snapshots.close()
    pairs = list(zip(copies[1:], taken, strict=True))
    return {
        "state_bytes": sum(tensor.nbytes for tensor in tensors),
        "tensors": len(tensors),
        "plain_copy_s": median([copy.wall_s for copy in copies[1:]]),
        "plain_copy_cpu_s": median([copy.cpu_s for copy in copies[1:]]),
        "stall_s": median(stalls),
        "copy_s": median([one.copy_s for one in taken]),
        "cpu_s": median([one.cpu_s for one in taken]),
        "first_copies_s": first,
        "copy_ratio": median([one.copy_s / copy.wall_s for copy, one in pairs]),
        "cpu_ratio": median([one.cpu_s / copy.cpu_s for copy, one in pairs]),
        "memory_ratio": shared_bytes / sum(tensor.nbytes for tensor in tensors),
    }


def measure_overlap(total_bytes: int = 1 << 30, rounds: int = 7) -> dict[str, Any]:
    """A training step alone, with a snapshot begun before it and waited for after it, and with a plain copy before it.
    `extra_s` is what the snapshot adds to the step, its wait included."""
    layers = make_state(total_bytes)
    tensors = [tensor for layer in layers.values() for tensor in layer.tensors.values()]
    targets = [torch.zeros_like(tensor) for tensor in tensors]
    snapshots, step = _Snapshots(layers), _training_step()
    for _ in range(2):
        snapshots.take()
        _copy(tensors, targets)
    alone, extra, waits, slowdowns, copies = [], [], [], [], []
    for _ in range(rounds):
        plain = (_seconds(step) + _seconds(step)) / 2
        round_ = snapshots.take(step)
        alone.append(plain)
        slowdowns.append(round_.between_s / plain - 1)
        waits.append(round_.wait_s)
        extra.append(round_.stall_s + round_.between_s + round_.wait_s - plain)
        copies.append(_copy(tensors, targets).wall_s)
    snapshots.close()
    return {
        "step_s": median(alone),
        "slowdown": median(slowdowns),  # of the step's own time
        "wait_s": median(waits),
        "extra_s": median(extra),
        "plain_copy_s": median(copies),
        "extra_ratio": median([more / copy for more, copy in zip(extra, copies, strict=True)]),
    }


def measure_async_save(folder: Path | None = None, total_bytes: int = 1 << 30, rounds: int = 5) -> dict[str, Any]:
    """How long `torch.distributed.checkpoint.async_save` of the same state holds up its caller (one rank, gloo), beside
    `begin` of a snapshot in the same rounds. Each save ends before the next begins."""
    layers = make_state(total_bytes)
    state = {layer.name: dict(layer.tensors) for layer in layers.values()}
    place = Path(tempfile.mkdtemp(prefix="holdfast-async-save-", dir=folder))
    snapshots = _Snapshots(layers)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    stalls, ours, whole = [], [], []
    try:
        for number in range(rounds + 2):  # the first two have memory to fetch
            begun = time.perf_counter()
            future: Any = dcp.async_save(state, checkpoint_id=str(place / str(number)))
            stalls.append(time.perf_counter() - begun)
            future.result()
            whole.append(time.perf_counter() - begun)
            shutil.rmtree(place / str(number))
            ours.append(snapshots.take().stall_s)
    finally:
        dist.destroy_process_group()
        snapshots.close()
        shutil.rmtree(place, ignore_errors=True)
    return {
        "async_save_stall_s": median(stalls[2:]),
        "async_save_whole_s": median(whole[2:]),
        "stall_s": median(ours[2:]),
        "stall_ratio": median([mine / theirs for mine, theirs in zip(ours[2:], stalls[2:], strict=True)]),
        "first_async_save_stalls_s": stalls[:2],
        "first_stalls_s": ours[:2],
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """Of one snapshot, what the training thread spent in `begin`, in what came between, and in `wait`."""

    stall_s: float
    between_s: float
    wait_s: float
    taken: Taken


class _Snapshots:
    """Takes one after the other, as a worker does: the one before is kept."""

    def __init__(self, layers: Mapping[int, LayerState]) -> None:
        self._layers, self._step = layers, 0
        self._snapshotter = Snapshotter()

    def take(self, between: Callable[[], None] = lambda: None) -> _Round:
        self._step += 1
        begun = time.perf_counter()
        self._snapshotter.begin(self._step, 1, self._layers, (self._step - 1, 1))
        started = time.perf_counter()
        between()
        ended = time.perf_counter()
        taken = self._snapshotter.wait(lambda: None)
        assert taken is not None
        return _Round(
            stall_s=started - begun, between_s=ended - started, wait_s=time.perf_counter() - ended, taken=taken
        )

    def shared_bytes(self) -> int:
        """What the system holds for this process's snapshots."""
        total = 0
        for link in Path("/proc/self/fd").iterdir():
            if link.is_symlink() and "memfd:holdfast" in os.readlink(link):
                total += link.stat().st_blocks * 512
        return total

    def close(self) -> None:
        self._snapshotter.close()


def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Cost:
    wall_s, cpu_s = time.perf_counter(), time.thread_time()
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)
    return Cost(wall_s=time.perf_counter() - wall_s, cpu_s=time.thread_time() - cpu_s)


def _seconds(function: Callable[[], None]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def _training_step() -> Callable[[], None]:
    """Forward and backward of a small model, often: so it is made of many short operations, and of Python between."""
    model = nn.Sequential(*(nn.Sequential(nn.Linear(384, 384), nn.GELU(), nn.LayerNorm(384)) for _ in range(12)))
    inputs = torch.randn(64, 384)

    def microbatch() -> None:
        model(inputs).square().mean().backward()

    for _ in range(3):
        microbatch()
    count = max(1, round(_STEP_S / min(_seconds(microbatch) for _ in range(5))))

    def step() -> None:
        model.zero_grad()
        for _ in range(count):
            microbatch()

    return step

"""Ranks for tests of the torch.distributed.checkpoint bridge: processes over gloo that act and tell what came of it."""

import functools
import json
import multiprocessing
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from holdfast_checkpoint.blob import tensors_sha256

Told: TypeAlias = Mapping[str, Any]
Act: TypeAlias = Callable[[int, Path], Told]
WITHIN_S = 240.0  # they import torch first


def run_ranks(act: Act, world: int, folder: Path, *, expected_exits: Sequence[int] | None = None) -> list[Any]:
    """`act(rank, folder)` on every rank, in a process each; what each told, None for one that did not get to it."""
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed.checkpoint", "torch.distributed.fsdp", __name__])
    ranks = [
        context.Process(target=_rank, args=(act, rank, world, folder), name=f"rank-{rank}") for rank in range(world)
    ]
    for rank in ranks:
        rank.start()
    end = time.monotonic() + WITHIN_S
    for rank in ranks:
        rank.join(max(0.0, end - time.monotonic()))
    exits = [rank.exitcode for rank in ranks]
    for rank in ranks:
        rank.kill()
    assert exits == list(expected_exits or [0] * world), f"ranks ended with {exits}; their tracebacks are above"
    told = [folder / f"told-{rank}.json" for rank in range(world)]
    return [json.loads(path.read_text()) if path.exists() else None for path in told]


def _rank(act: Act, rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    (folder / f"told-{rank}.json").write_text(json.dumps(act(rank, folder)))
    dist.destroy_process_group()


def failures(act: Callable[[], object]) -> list[str]:
    """By rank, what a save or a load failed with, as this rank was told; [] if it did not fail."""
    try:
        act()
    except CheckpointException as error:
        return [f"{rank}: {type(cause).__name__}: {cause}" for rank, (cause, _) in sorted(error.failures.items())]
    return []


class Model(nn.Module):
    """Uneven on purpose: sizes that no number of ranks divides, and a buffer that is not sharded."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(37, 53)
        self.second = nn.Linear(53, 2, bias=False)
        self.register_buffer("seen", torch.tensor(seed))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))  # type: ignore[no-any-return]


@functools.cache
def mesh_of(ranks: int, *shape: int) -> DeviceMesh:
    """Of the first `ranks`. Collective on all there are when it is first asked for."""
    return DeviceMesh("cpu", torch.arange(ranks).view(shape or (ranks,)))


def sha256(state: Mapping[str, Any]) -> str:
    """Of all tensors of a nested state dict, whole; collective on the ranks of their mesh."""
    return tensors_sha256(sorted(_whole(state, "")))


def _whole(value: Any, name: str) -> list[tuple[str, Tensor]]:
    if isinstance(value, DTensor):
        return [(name, value.full_tensor())]
    if isinstance(value, Tensor):
        return [(name, value.detach())]
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, inner in items for found in _whole(inner, f"{name}.{key}")]

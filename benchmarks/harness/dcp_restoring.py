"""How fast a state saved by four ranks comes back on three, beside plain reads and torch's own format.

    python benchmarks/harness/dcp_restoring.py [--bytes N] [--rounds N]

All read the same bytes into memory that has been used before, in the same processes, in turns: `plain` reads a third of
the blobs' files on each rank, without looking at them; `holdfast` is dcp.load with HoldfastReader, every byte verified;
`torch` is dcp.load with FileSystemReader, nothing verified; `plan` is dcp.load with a reader that knows the metadata
beforehand and reads nothing: no reader can be faster than `plan` and `plain` together. Medians count, from the page
cache and, as after the loss of a machine, from the disk.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import LoadPlan, LoadPlanner, Metadata, StorageReader
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.futures import Future

from holdfast_checkpoint.dcp import HoldfastReader, HoldfastWriter
from holdfast_checkpoint.dcp.ranges import reading_threads

SAVED_ON, LOADED_ON = 4, 3
ROUNDS, ROUNDS_FROM_DISK = 7, 3
_PIECE_BYTES = 16 << 20
_WIDTH = 1024  # columns of float32
State: TypeAlias = dict[str, Tensor]


def restoring_figures(folder: Path, total_bytes: int = 1 << 30, rounds: int = ROUNDS) -> dict[str, Any]:
    """Seconds by way, and the share of the plain reads' speed that the others reach; `bound`: `plan` and `plain`."""
    context = multiprocessing.get_context("spawn")
    ranks = [
        context.Process(target=_rank, args=(rank, folder, total_bytes, rounds), name=f"rank-{rank}", daemon=True)
        for rank in range(SAVED_ON)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    if any(rank.exitcode for rank in ranks):
        raise RuntimeError(f"ranks ended with {[rank.exitcode for rank in ranks]}; their tracebacks are above")
    seconds = json.loads((folder / "seconds.json").read_text())
    return {
        "bytes": total_bytes,
        "saved_on": SAVED_ON,
        "loaded_on": LOADED_ON,
        "rounds": rounds,
        **_ratios(seconds["cached"]),
        "from_disk": _ratios(seconds["from_disk"]),
    }


def _ratios(seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    return {
        "seconds": {way: round(value, 4) for way, value in medians.items()},
        "holdfast_of_plain": round(medians["plain"] / medians["holdfast"], 3),
        "holdfast_of_bound": round((medians["plan"] + medians["plain"]) / medians["holdfast"], 3),
        "torch_of_plain": round(medians["plain"] / medians["torch"], 3),
    }


class _PlanningReader(StorageReader):
    """Has what it needs before a load begins, and brings nothing."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept of a load."""

    def read_metadata(self) -> Metadata:
        return self._metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool) -> None:
        """There is nothing to set up."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return False


def _rank(rank: int, folder: Path, total_bytes: int, rounds: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=SAVED_ON)
    four, three = DeviceMesh("cpu", range(SAVED_ON)), DeviceMesh("cpu", range(LOADED_ON))
    group = dist.new_group(range(LOADED_ON))
    state = _state(four, total_bytes, 1.0)
    dcp.save(state, storage_writer=HoldfastWriter(folder / "holdfast", step=1))
    dcp.save(state, storage_writer=dcp.FileSystemWriter(folder / "torch"))
    del state
    if rank < LOADED_ON:
        state = _state(three, total_bytes, 0.0)
        seconds = {
            "cached": _load_in_turns(rank, folder, state, group, rounds),
            "from_disk": _load_in_turns(rank, folder, state, group, ROUNDS_FROM_DISK, from_disk=True),
        }
        if rank == 0:
            (folder / "seconds.json").write_text(json.dumps(seconds))
    dist.barrier()
    dist.destroy_process_group()


def _load_in_turns(
    rank: int, folder: Path, state: State, group: dist.ProcessGroup, rounds: int, *, from_disk: bool = False
) -> Mapping[str, Sequence[float]]:
    blobs = sorted((folder / "holdfast").glob("*/*.safetensors"))
    metadata = HoldfastReader(folder / "holdfast").read_metadata()
    ways: dict[str, Callable[[], None]] = {
        "plain": lambda: _read_plainly(blobs, rank, state),
        "holdfast": lambda: _load(state, HoldfastReader(folder / "holdfast"), group),
        "plan": lambda: _load(state, _PlanningReader(metadata), group),
        "torch": lambda: _load(state, dcp.FileSystemReader(folder / "torch"), group),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(-1, rounds):  # the first one warms up
        for way in sorted(ways, reverse=turn % 2 == 0):
            for tensor in state.values():
                _local(tensor).fill_(-1.0)
            if from_disk and rank == 0:
                _forget_files(folder)
            dist.barrier(group)
            begin = time.perf_counter()
            ways[way]()
            dist.barrier(group)
            if turn >= 0:
                seconds[way].append(time.perf_counter() - begin)
            if way in {"holdfast", "torch"} and turn < 0:
                _check(state)
    return seconds


def _load(state: State, reader: dcp.StorageReader, group: dist.ProcessGroup) -> None:
    dcp.load(dict(state), storage_reader=reader, process_group=group)


def _forget_files(folder: Path) -> None:
    """Out of the page cache."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def _read_plainly(blobs: Sequence[Path], rank: int, state: State) -> None:
    """A third of every file, into this rank's own tensors, on as many threads as HoldfastReader uses."""
    arrays: list[Any] = [_local(tensor).numpy() for tensor in state.values()]
    memory = [memoryview(array).cast("B") for array in arrays]
    rooms = [view[at : at + _PIECE_BYTES] for view in memory for at in range(0, len(view), _PIECE_BYTES)]
    threads = reading_threads()
    rooms = [rooms[0]] * (threads + 1) + rooms  # for the files' headers, and for what threads hold at the end

    def read(blob: Path) -> None:
        file = os.open(blob, os.O_RDONLY)
        size = os.fstat(file).st_size
        at, stop = size * rank // LOADED_ON, size * (rank + 1) // LOADED_ON
        while at < stop:
            room = rooms.pop()
            count = os.preadv(file, [room[: stop - at]], at)
            at += count
            if count < len(room):
                rooms.append(room[count:])
        os.close(file)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, blobs))


def _state(mesh: DeviceMesh, total_bytes: int, factor: float) -> State:
    """Of a shape that neither number of ranks divides; large tensors and small ones."""
    rows = max(1, total_bytes // 32 // _WIDTH // 4)
    large = {f"layers.{index}.weight": (rows, _WIDTH) for index in range(32)}
    small = {f"layers.{index}.bias": (_WIDTH + 1,) for index in range(32)}
    return {
        name: distribute_tensor(_values(index, shape) * factor, mesh, [Shard(0)], src_data_rank=None)
        for index, (name, shape) in enumerate((large | small).items())
    }


def _values(index: int, shape: Sequence[int]) -> Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape).add_(index)


def _check(state: State) -> None:
    for index, (name, tensor) in enumerate(state.items()):
        assert isinstance(tensor, DTensor)
        mine = distribute_tensor(_values(index, tensor.shape), tensor.device_mesh, [Shard(0)], src_data_rank=None)
        assert torch.equal(mine.to_local(), tensor.to_local()), f"{name} came back as something else"


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=int, default=1 << 30)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="holdfast-restoring-") as folder:
        print(json.dumps(restoring_figures(Path(folder), given.bytes, given.rounds), indent=1))


if __name__ == "__main__":
    main()

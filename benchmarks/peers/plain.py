"""What the peers share: the same Program, built and fed the plain way."""

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from holdfast.program import Program, load_program


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """This process's part."""

    program: Program
    log: Path
    rank: int
    ranks: int


def peer_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True, help='JSON: {"entry", "params", "base"}')
    parser.add_argument("--log", required=True, type=Path)
    parser.add_argument("--rendezvous", type=Path)
    return parser


def start(arguments: argparse.Namespace) -> Peer:
    """One thread; a gloo group over a file where there are several ranks."""
    torch.set_num_threads(1)
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{arguments.rendezvous}", rank=rank, world_size=ranks)
    source = json.loads(arguments.program)
    program = load_program(source["entry"], source["params"], Path(source["base"]))
    torch.manual_seed(program.seed)
    return Peer(program=program, log=arguments.log, rank=rank, ranks=ranks)


def build_layers(program: Program, start: int, stop: int) -> nn.Sequential:
    return nn.Sequential(*(layer.build() for layer in program.layers[start:stop]))


def load(program: Program, step: int, microbatch: int) -> tuple[Tensor, Tensor]:
    """Input and target of one microbatch, in the order in which they lie in the dataset."""
    first = step * program.global_batch + microbatch * program.microbatch
    samples = [program.dataset[(first + i) % len(program.dataset)] for i in range(program.microbatch)]
    return torch.stack([sample[0] for sample in samples]), torch.stack([sample[1] for sample in samples])


def schedule(program: Program, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, program.lr_schedule or (lambda _: 1.0))


class CommitLog:
    """A line a step, written by rank 0."""

    def __init__(self, path: Path, is_writer: bool) -> None:
        self._file = path.open("a", buffering=1) if is_writer else None

    def commit(self, step: int, loss: float) -> None:
        """`step`: committed steps."""
        if self._file is not None:
            self._file.write(json.dumps({"step": step, "time_s": time.time(), "loss": loss}) + "\n")


def steps() -> Iterator[int]:
    """Zero-based, until somebody ends the process."""
    step = 0
    while True:
        yield step
        step += 1

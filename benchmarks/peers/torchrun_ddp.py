"""What torchrun restarts: DDP over gloo with a checkpoint every step, resumed from the newest one.

Each process appends to a file of its own in the folder: what it resumed from, then a line a committed step.
"""

import argparse
import contextlib
import json
import os
import time
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks.peers.plain import build_layers, load, schedule
from holdfast.program import Program, load_program


def newest(folder: Path) -> Path | None:
    """Only whole checkpoints have this name."""
    return max(folder.glob("step-*.pt"), default=None)


class Checkpoints:
    """One file a step, the newest two kept, so that whoever loads the newest is never robbed of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, state: dict[str, Any]) -> None:
        draft = self._folder / "draft"
        torch.save(state, draft)
        draft.replace(self._folder / f"step-{state['step']:08d}.pt")
        for old in sorted(self._folder.glob("step-*.pt"))[:-2]:
            old.unlink()

    def load(self) -> dict[str, Any] | None:
        path = newest(self._folder)
        found: dict[str, Any] | None = torch.load(path, mmap=True) if path is not None else None
        return found


class Trainer:
    """One rank between two restarts."""

    def __init__(self, program: Program, folder: Path) -> None:
        self._program, self._checkpoints = program, Checkpoints(folder)
        self._rank, self._ranks = dist.get_rank(), dist.get_world_size()
        self._layers = build_layers(program, 0, len(program.layers))
        self._optimizer = program.optimizer(list(self._layers.parameters()))
        self._rates = schedule(program, self._optimizer)
        self.step = 0
        state = self._checkpoints.load()
        if state is not None:
            self._layers.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._rates.load_state_dict(state["rates"])
            self.step = state["step"]
        self._model = DistributedDataParallel(self._layers, gradient_as_bucket_view=True)

    def train(self, log: IO[str]) -> None:
        while True:
            self._optimizer.zero_grad()
            self._backward()
            if self._program.clip_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._program.clip_grad_norm)
            self._optimizer.step()
            self._rates.step()
            self.step += 1
            log.write(json.dumps({"step": self.step, "time_s": time.time()}) + "\n")
            if self._rank == 0:
                self._checkpoints.save(
                    {
                        "step": self.step,
                        "model": self._layers.state_dict(),
                        "optimizer": self._optimizer.state_dict(),
                        "rates": self._rates.state_dict(),
                    }
                )

    def _backward(self) -> None:
        """Every rank's share of the global batch; shares differ by one microbatch where they do not divide it."""
        program = self._program
        mine = range(self._rank, program.microbatches, self._ranks)
        for microbatch in mine:
            inputs, target = load(program, self.step, microbatch)
            with contextlib.nullcontext() if microbatch == mine[-1] else self._model.no_sync():
                loss = program.loss(self._model(inputs), target)
                # DDP averages over the ranks.
                (loss * self._ranks / program.microbatches).backward()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--folder", required=True, type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    source = json.loads(arguments.program)
    program = load_program(source["entry"], source["params"], Path(source["base"]))
    torch.manual_seed(program.seed)
    trainer = Trainer(program, arguments.folder)
    with (arguments.folder / f"rank-{dist.get_rank()}-{os.getpid()}.jsonl").open("a", buffering=1) as log:
        log.write(json.dumps({"resumed": trainer.step, "time_s": time.time(), "ranks": dist.get_world_size()}) + "\n")
        trainer.train(log)


if __name__ == "__main__":
    main()

"""torch.distributed.pipelining by hand: 1F1B over the stages of a pipeline, DDP over pipelines where there are several.

Ranks lie pipeline by pipeline. Clipping needs the norm of the whole model, so every step sums the stages' squared norms
and the loss in one all-reduce.
"""

import argparse
import math

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.nn.parallel import DistributedDataParallel

from benchmarks.peers.plain import CommitLog, Peer, build_layers, load, peer_parser, schedule, start, steps


class Pipeline:
    """This rank's stage, and which microbatches its pipeline computes."""

    def __init__(self, peer: Peer, cuts: list[int]) -> None:
        program = peer.program
        depth = len(cuts) - 1
        self.pipelines = peer.ranks // depth
        pipeline, stage = divmod(peer.rank, depth)
        share = program.microbatches // self.pipelines
        self.microbatches = range(pipeline * share, (pipeline + 1) * share)
        self.is_first, self.is_last = stage == 0, stage == depth - 1
        self.layers = build_layers(program, cuts[stage], cuts[stage + 1])
        # Every rank makes every group, in the same order.
        across = [dist.new_group([p * depth + d for d in range(depth)]) for p in range(self.pipelines)]
        down = [dist.new_group([p * depth + d for p in range(self.pipelines)]) for d in range(depth)]
        module: nn.Module = self.layers
        if self.pipelines > 1:
            module = DistributedDataParallel(self.layers, process_group=down[stage], gradient_as_bucket_view=True)
        self._stage = PipelineStage(module, stage, depth, torch.device("cpu"), group=across[pipeline])
        # DDP averages over the pipelines.
        self._schedule = Schedule1F1B(
            self._stage, share, loss_fn=lambda output, target: program.loss(output, target) / share, scale_grads=False
        )

    def compute(self, peer: Peer, step: int) -> float:
        """Forward and backward of all microbatches; the sum of this rank's losses, each a share of its mean."""
        loaded = [load(peer.program, step, m) for m in self.microbatches] if self.is_first or self.is_last else []
        arguments = (torch.cat([inputs for inputs, _ in loaded]),) if self.is_first else ()
        target = torch.cat([target for _, target in loaded]) if self.is_last else None
        losses: list[Tensor] = []
        self._schedule.step(*arguments, target=target, losses=losses, return_outputs=False)
        return float(sum(loss.detach() for loss in losses)) / self.pipelines if self.is_last else 0.0


def main() -> None:
    parser = peer_parser()
    parser.add_argument("--cuts", required=True, help="layers at which stages begin, and their number: 0,5,10")
    arguments: argparse.Namespace = parser.parse_args()
    peer = start(arguments)
    pipeline = Pipeline(peer, [int(cut) for cut in arguments.cuts.split(",")])
    parameters = list(pipeline.layers.parameters())
    optimizer = peer.program.optimizer(parameters)
    rates = schedule(peer.program, optimizer)
    log = CommitLog(peer.log, is_writer=peer.rank == 0)
    limit = peer.program.clip_grad_norm
    for step in steps():
        optimizer.zero_grad()
        loss = pipeline.compute(peer, step)
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        vote = torch.tensor([float(norm) ** 2 / pipeline.pipelines, loss], dtype=torch.float64)
        dist.all_reduce(vote)
        if limit is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, torch.tensor(math.sqrt(float(vote[0]))))
        optimizer.step()
        rates.step()
        log.commit(step + 1, float(vote[1]))


if __name__ == "__main__":
    main()

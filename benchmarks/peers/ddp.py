"""DistributedDataParallel over gloo; gradients are accumulated locally (no_sync) until the last microbatch."""

import contextlib

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks.peers.plain import CommitLog, build_layers, load, peer_parser, schedule, start, steps


def main() -> None:
    peer = start(peer_parser().parse_args())
    program = peer.program
    model = DistributedDataParallel(build_layers(program, 0, len(program.layers)), gradient_as_bucket_view=True)
    optimizer = program.optimizer(list(model.parameters()))
    rates = schedule(program, optimizer)
    log = CommitLog(peer.log, is_writer=peer.rank == 0)
    share = program.microbatches // peer.ranks
    mine = range(peer.rank * share, (peer.rank + 1) * share)
    for step in steps():
        optimizer.zero_grad()
        losses = []
        for microbatch in mine:
            inputs, target = load(program, step, microbatch)
            with contextlib.nullcontext() if microbatch == mine[-1] else model.no_sync():
                loss = program.loss(model(inputs), target)
                # DDP averages over the ranks.
                (loss / share).backward()
            losses.append(loss.detach())
        if program.clip_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), program.clip_grad_norm)
        optimizer.step()
        rates.step()
        mean = torch.stack(losses).mean() / peer.ranks
        dist.all_reduce(mean)
        log.commit(step + 1, float(mean))


if __name__ == "__main__":
    main()

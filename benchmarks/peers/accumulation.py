"""One process, gradient accumulation."""

import torch

from benchmarks.peers.plain import CommitLog, build_layers, load, peer_parser, schedule, start, steps


def main() -> None:
    peer = start(peer_parser().parse_args())
    program = peer.program
    model = build_layers(program, 0, len(program.layers))
    optimizer = program.optimizer(list(model.parameters()))
    rates = schedule(program, optimizer)
    log = CommitLog(peer.log, is_writer=True)
    for step in steps():
        optimizer.zero_grad()
        losses = []
        for microbatch in range(program.microbatches):
            inputs, target = load(program, step, microbatch)
            loss = program.loss(model(inputs), target)
            (loss / program.microbatches).backward()
            losses.append(loss.detach())
        if program.clip_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), program.clip_grad_norm)
        optimizer.step()
        rates.step()
        log.commit(step + 1, float(torch.stack(losses).mean()))


if __name__ == "__main__":
    main()

"""One pipeline stage alone in plain PyTorch: how much memory its layers take with so many microbatches in flight.

Prints JSON: {"peak_bytes"} above what the process took before it built anything.
"""

import json
from collections import deque

import torch
import torch._dynamo  # noqa: F401  70 MB, imported by the first optimizer; a Holdfast worker is born with it
from torch import Tensor

from benchmarks.harness.memory_reading import anonymous_peak_bytes, read_memory
from benchmarks.peers.plain import build_layers, load, peer_parser, start

_STEPS = 6


def main() -> None:
    parser = peer_parser()
    parser.add_argument("--layers", required=True, help="first,end")
    parser.add_argument("--in-flight", required=True, type=int)
    parser.add_argument("--microbatches", required=True, type=int)
    arguments = parser.parse_args()
    program = start(arguments).program
    first, end = map(int, arguments.layers.split(","))
    # What the stage before would send; made before the baseline, for it is not this stage's.
    with torch.no_grad():
        activation = load(program, 0, 0)[0]
        for layer in program.layers[:first]:
            activation = layer.build()(activation)
    target = load(program, 0, 0)[1]
    baseline = read_memory("self")

    stage = build_layers(program, first, end)
    optimizer = program.optimizer(list(stage.parameters()))
    for _ in range(_STEPS):
        optimizer.zero_grad()
        flying: deque[Tensor] = deque()
        for _ in range(arguments.microbatches):
            received = activation.clone().requires_grad_(activation.is_floating_point())
            output = stage(received)
            last = end == len(program.layers)
            flying.append(program.loss(output, target) if last else output)
            del output
            if len(flying) == arguments.in_flight:
                _backward(flying.popleft())
        while flying:
            _backward(flying.popleft())
        torch.nn.utils.clip_grad_norm_(stage.parameters(), program.clip_grad_norm or 1e9)
        optimizer.step()
    print(json.dumps({"peak_bytes": anonymous_peak_bytes(read_memory("self"), baseline)}))


def _backward(output: Tensor) -> None:
    output.backward(torch.ones_like(output))


if __name__ == "__main__":
    main()

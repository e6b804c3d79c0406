"""What a stage needs at least: counted, not measured, but for the tensors that autograd saves."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.peers.plain import build_layers, load
from holdfast.model.plan import Plan
from holdfast.program import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class StageNeeds:
    """Bytes of one rank; activations are of one microbatch, of which `in_flight` are kept at once."""

    parameter_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    in_flight: int
    microbatches: int  # that this rank computes a step

    def parts_bytes(self) -> dict[str, int]:
        return {
            "parameters": self.parameter_bytes,
            "gradients": self.parameter_bytes,
            "optimizer": self.optimizer_bytes,
            "activations": self.activation_bytes * self.in_flight,
        }

    @property
    def total_bytes(self) -> int:
        return sum(self.parts_bytes().values())


def stage_needs(program: Program, planned: Plan, rank: int) -> StageNeeds:
    """Of the stage that `rank` holds."""
    number, stage = planned.locate(rank)
    pipeline = planned.pipelines[number]
    microbatches = len(pipeline.blocks) * program.microbatches // planned.block_count
    layers = pipeline.stages[stage].layers
    module = build_layers(program, layers.start, layers.stop)
    parameters = list(module.parameters())
    optimizer = program.optimizer(parameters)
    activation_bytes = _saved_bytes(program, module, layers.start, is_last=layers.stop == len(program.layers))
    optimizer.step()
    state = [value for held in optimizer.state.values() for value in held.values() if isinstance(value, Tensor)]
    return StageNeeds(
        parameter_bytes=sum(parameter.nbytes for parameter in parameters),
        optimizer_bytes=sum(value.nbytes for value in state),
        activation_bytes=activation_bytes,
        # 1F1B: the last stage begins with one, the one before it with two, ...
        in_flight=min(pipeline.depth - stage, microbatches),
        microbatches=microbatches,
    )


def _saved_bytes(program: Program, module: torch.nn.Sequential, first: int, *, is_last: bool) -> int:
    """Storage that one microbatch's graph keeps for backward, parameters not counted; leaves gradients behind."""
    activation, target = load(program, 0, 0)
    with torch.no_grad():
        for layer in program.layers[:first]:
            activation = layer.build()(activation)
    kept: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    received = activation.detach().requires_grad_(activation.is_floating_point())
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(received)
        loss = program.loss(output, target) if is_last else output
    total = sum(kept.values())
    loss.backward(torch.ones_like(loss))
    return total

"""What a step costs beside its layers: real steps of a slot with few of them, less what those are known to take."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import median

import torch
from torch import Tensor

from holdfast.control.snapshotting import Standing
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.plan import Pipeline, Plan, Span, Stage
from holdfast.planner.profile import LayerProfile
from holdfast.worker.comm import WORLD, Comm, GroupSpec
from holdfast.worker.commit import apply_step, make_commit
from holdfast.worker.data import Activation
from holdfast.worker.generation import pipeline_group
from holdfast.worker.layers import initial_layer
from holdfast.worker.main import serve_store
from holdfast.worker.measuring import now_s, pass_through, trials
from holdfast.worker.process_groups import make_backend
from holdfast.worker.state import Setting
from holdfast.worker.step import StepRunner

SLOT = SlotId(NodeId("node-0"), 0)
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """`stage_s` of a microbatch in a stage, `fixed_s` of a step; see Profile."""

    stage_s: float = 0.0
    fixed_s: float = 0.0


def measure_beside(setting: Setting, layers: Sequence[LayerProfile], load_s: float, steps: int) -> Beside:
    """With the first layers, as few as have something to train: any slot has memory for them, and noise in what they
    take does not hide what is looked for.

    Raises:
        UserCodeError: the user's code raised.
    """
    setting, layers = _shortened(setting, layers)
    program, device = setting.program, setting.device
    blocks = program.blocks(setting.spec.block)
    plan = Plan((Pipeline((Stage(SLOT, Span(0, len(layers))),), Span(0, blocks)),))
    store = serve_store(setting.host, _TIMEOUT_S)
    backend = make_backend(device, setting.host)
    comm = Comm(backend, setting.host, store.port, 1, secrets.token_bytes(32), setting.pulse)
    try:
        comm.form([GroupSpec(name=name, rank=0, size=1) for name in (WORLD, pipeline_group(0))])
        comm.register_default(pipeline_group(0))
        held = {index: initial_layer(program, index, device) for index in range(len(layers))}
        runner = StepRunner(setting, comm, plan, 0, held)
        computed_s, committed_s = [], []
        for step in range(steps):
            begun_s = now_s(device)
            runner.compute(step)
            between_s = now_s(device)
            voted = runner.vote(False, Standing())
            apply_step(program, held, make_commit(step + 1, voted.loss, voted.grad_norm))
            computed_s.append(between_s - begun_s)
            committed_s.append(now_s(device) - between_s)
    finally:
        comm.close()
    # What a layer takes depends on what else is in the caches, so it is seen again without the others.
    group = list(islice(trials(program, setting.spec, setting.facts, device), len(layers)))
    seen = [sum(map(sum, pass_through(group, device))) for _ in range(steps)]
    microbatch_s = load_s + median(seen[1:])
    update_s = sum(layer.update_s for layer in layers)
    # The first step makes the optimizer's state, and warms up.
    return Beside(
        stage_s=max(0.0, median(computed_s[1:]) / program.microbatches - microbatch_s),
        fixed_s=max(0.0, median(committed_s[1:]) - update_s),
    )


def _shortened(setting: Setting, layers: Sequence[LayerProfile]) -> tuple[Setting, Sequence[LayerProfile]]:
    outputs = [any(tensor.requires_grad for tensor in layer.output.tensors) for layer in setting.facts.layers]
    count = outputs.index(True) + 1
    program = replace(setting.program, layers=setting.program.layers[:count], loss=_mean, tied=())
    facts = replace(setting.facts, layers=setting.facts.layers[:count])
    return replace(setting, program=program, facts=facts), layers[:count]


def _mean(output: Activation, target: Activation) -> Tensor:
    """A loss of whatever a layer made."""
    parts = output if isinstance(output, tuple) else (output,)
    return torch.stack([part.float().mean() for part in parts if part.requires_grad]).sum()

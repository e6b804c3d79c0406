"""What must be the same to go on from a checkpoint bit for bit: model, optimizer, batch, seed. JSON values."""

from typing import Any

from torch import nn

from holdfast.model.facts import ProgramFacts
from holdfast.program import Program
from holdfast.spec import JobSpec


def identity_of(program: Program, facts: ProgramFacts, spec: JobSpec) -> dict[str, Any]:
    """Compared field by field when a run is resumed. Functions (loss, schedule) are known by name alone."""
    return {
        "layers": {
            layer.name: {parameter.name: str(parameter.spec) for parameter in layer.parameters}
            for layer in facts.layers
        },
        "order": [layer.name for layer in facts.layers],
        "loss": _name_of(program.loss),
        "lr_schedule": _name_of(program.lr_schedule),
        "tied": sorted(sorted((tie.a, tie.b)) for tie in program.tied),
        "optimizer": _optimizer(program),
        "clip_grad_norm": program.clip_grad_norm,
        "batch": {"global_batch": program.global_batch, "microbatch": program.microbatch, "block": spec.block},
        "dataset_size": facts.dataset_size,
        "seed": program.seed,
        "reduction": spec.reduction,
    }


def _name_of(function: object) -> str | None:
    return getattr(function, "__qualname__", type(function).__qualname__) if function is not None else None


def _optimizer(program: Program) -> dict[str, Any]:
    optimizer = program.optimizer([nn.Parameter()])
    kind = type(optimizer)
    settings = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in sorted(optimizer.defaults.items())
        if isinstance(value, int | float | bool | str | tuple | None)
    }
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "settings": settings}

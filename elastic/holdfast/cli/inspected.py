"""A spec with its Program, looked at and found to fit each other, and nothing started."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.errors import SpecError
from holdfast.model.facts import ProgramFacts
from holdfast.program import Program, load_program, with_batch
from holdfast.spec import JobSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspected:
    """A spec and its Program, found to fit each other."""

    spec: JobSpec
    base: Path
    program: Program
    facts: ProgramFacts
    identity: Mapping[str, Any]


def inspect_program(spec: JobSpec, base: Path) -> Inspected:
    """Load the spec's Program from `base` and check it, and the two against each other.

    Raises:
        UserError: they are wrong, or do not fit.
        UserCodeError: the user's code raised.
    """
    from holdfast.worker.facts import inspect  # here, because they import torch
    from holdfast.worker.identity import identity_of

    program = load_program(spec.program.entry, dict(spec.program.params), base)
    program = with_batch(program, spec.batch.size, spec.batch.microbatch)
    program.blocks(spec.block)
    facts = inspect(program, spec.steps)
    depth, layers = spec.layout.depth, len(facts.layers)
    if depth is not None and depth > layers:
        raise SpecError(f"layout.depth: {depth} given; should be at most {layers}, the number of the Program's layers")
    memory, largest = spec.layout.memory_per_slot_bytes, max(facts.layers, key=lambda layer: layer.state_bytes)
    if memory is not None and memory < largest.state_bytes:
        raise SpecError(
            f"layout.memory_per_slot_bytes: {memory} is too little for layer {largest.name!r}, whose parameters, "
            f"buffers and optimizer state take about {largest.state_bytes} bytes; give more, or make layers smaller"
        )
    return Inspected(spec=spec, base=base, program=program, facts=facts, identity=identity_of(program, facts, spec))

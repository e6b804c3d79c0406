"""From what the command line says to a job that can run, or a refusal; all of it before a process starts."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.agent.program_source import source_sha256
from holdfast.agent.versions import versions_here
from holdfast.chaos.faults import Fault, JoinNode, check_faults, node_name, parse_fault
from holdfast.cli.resuming import AUTO, absolute_url, find_checkpoints, parse_resume
from holdfast.errors import NoPlanError, SpecError
from holdfast.model.facts import ProgramFacts
from holdfast.model.ids import SlotId
from holdfast.model.records import CheckpointRef, JobRecord
from holdfast.planner.search import Request, plan
from holdfast.program import Program, load_program, with_batch
from holdfast.spec import JobSpec, load_spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What `holdfast run` was asked for; None: as the spec says."""

    spec: Path
    name: str | None = None
    base: Path | None = None  # what relative paths start from; the spec's folder
    nodes: int | None = None
    slots: int | None = None
    steps: int | None = None
    reduction: str | None = None
    checkpoint: str | None = None  # a URL, or a path from here on
    checkpoint_every: int | None = None
    resume: str = AUTO
    overrides: Mapping[str, Any] = field(default_factory=dict)
    faults: Sequence[str] = ()

    def overlay(self) -> dict[str, Any]:
        """Values by dotted path, as `load_spec` takes them; a flag of its own wins over `--set`."""
        flags = {
            "name": self.name,
            "nodes.desired": self.nodes,
            "slots_per_node": self.slots,
            "steps": self.steps,
            "reduction": self.reduction,
            "checkpoints.url": absolute_url(self.checkpoint, Path.cwd()) if self.checkpoint is not None else None,
            "checkpoints.every": self.checkpoint_every,
        }
        return {**self.overrides, **{path: value for path, value in flags.items() if value is not None}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspected:
    """A spec and its Program, found to fit each other."""

    spec: JobSpec
    base: Path
    program: Program
    facts: ProgramFacts
    identity: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """All that is needed to run: nothing is left that could be refused."""

    spec: JobSpec
    base: Path
    facts: ProgramFacts
    global_batch: int
    nodes: int
    faults: tuple[Fault, ...]
    identity: Mapping[str, Any]
    checkpoints: tuple[CheckpointRef, ...]  # to start from, oldest first

    def job_record(self, out: Path | str) -> JobRecord:
        """What the agents read; final weights go to `out`, a folder or a URL."""
        layers = self.facts.layers
        return JobRecord(
            spec=self.spec.model_dump(mode="json"),
            base=str(self.base),
            out=str(out.absolute()) if isinstance(out, Path) else out,
            layer_names=tuple(layer.name for layer in layers),
            layer_costs=tuple(layer.cost for layer in layers),
            layer_bytes=tuple(layer.state_bytes for layer in layers),
            microbatches=self.facts.microbatches,
            steps=self.spec.steps,
            global_batch=self.global_batch,
            versions=versions_here(),
            source_sha256=source_sha256(self.spec.program.entry, self.base),
            run=uuid.uuid4().hex[:8],
            identity=dict(self.identity),
        )


def prepare(wish: Wish) -> Prepared:
    """Everything that a run needs.

    Raises:
        UserError: the spec, the Program or a fault is wrong.
        UserCodeError: the user's code raised while its Program was built.
    """
    resume = parse_resume(wish.resume)
    base = (wish.base or wish.spec.parent).absolute()
    spec = _with_absolute_url(load_spec(wish.spec, wish.overlay()), base)
    nodes = wish.nodes or spec.nodes.desired or spec.nodes.min
    faults = tuple(parse_fault(sentence) for sentence in wish.faults)
    check_faults(faults, nodes=nodes, slots=spec.slots_per_node, steps=spec.steps)
    inspected = inspect_program(spec, base)
    most = nodes + sum(isinstance(fault.action, JoinNode) for fault in faults)
    _check_layout(inspected, most)
    return Prepared(
        spec=spec,
        base=inspected.base,
        facts=inspected.facts,
        global_batch=inspected.program.global_batch,
        nodes=nodes,
        faults=faults,
        identity=inspected.identity,
        checkpoints=find_checkpoints(spec, inspected.identity, resume),
    )


def _with_absolute_url(spec: JobSpec, base: Path) -> JobSpec:
    if spec.checkpoints.url is None:
        return spec
    checkpoints = spec.checkpoints.model_copy(update={"url": absolute_url(spec.checkpoints.url, base)})
    return spec.model_copy(update={"checkpoints": checkpoints})


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


def _check_layout(inspected: Inspected, nodes: int) -> None:
    """Whether so many nodes can hold the model at all."""
    spec, layers = inspected.spec, inspected.facts.layers
    slots = tuple(SlotId(node_name(node), index) for node in range(nodes) for index in range(spec.slots_per_node))
    request = Request(
        slots=slots,
        layer_costs=tuple(layer.cost for layer in layers),
        layer_bytes=tuple(layer.state_bytes for layer in layers),
        blocks=inspected.program.blocks(spec.block),
        block_size=spec.block,
        depth=spec.layout.depth,
        memory_per_slot_bytes=spec.layout.memory_per_slot_bytes,
    )
    try:
        plan(request)
    except NoPlanError as error:
        raise SpecError(
            f"layout: the model does not fit: nodes {nodes}, slots_per_node {spec.slots_per_node}: {error}"
        ) from error

"""From what the command line says to a job that can run, or a refusal; all of it before a process starts."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.agent.program_source import source_sha256
from holdfast.agent.versions import versions_here
from holdfast.chaos.faults import Fault, JoinNode, check_faults, node_name, parse_fault
from holdfast.cli.inspected import Inspected, inspect_program
from holdfast.cli.known_profiles import known_profile, read_profile
from holdfast.cli.resuming import AUTO, absolute_url, find_checkpoints, parse_resume
from holdfast.errors import NoPlanError, SpecError
from holdfast.model.facts import ProgramFacts
from holdfast.model.ids import SlotId
from holdfast.model.records import CheckpointRef, JobRecord
from holdfast.planner.estimating import estimated_profile
from holdfast.planner.profile import Profile
from holdfast.planner.profile_json import profile_to_json
from holdfast.planner.request import Request
from holdfast.planner.requesting import request_of
from holdfast.planner.search import plan
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
    profile: Path | None = None
    is_here: bool = True  # it runs on this machine, so what was measured here holds
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
class Prepared:
    """All that is needed to run: nothing is left that could be refused."""

    spec: JobSpec
    base: Path
    facts: ProgramFacts
    global_batch: int
    nodes: int
    faults: tuple[Fault, ...]
    profile: Profile
    identity: Mapping[str, Any]
    checkpoints: tuple[CheckpointRef, ...]  # to start from, oldest first

    def request(self, nodes: int) -> Request:
        """What the planner is asked at the start, on so many nodes that hold nothing."""
        spec = self.spec
        return request_of(
            self.profile,
            slots=tuple(SlotId(node_name(n), index) for n in range(nodes) for index in range(spec.slots_per_node)),
            blocks=self.facts.microbatches // spec.block,
            block_size=spec.block,
            canonical=spec.reduction == "canonical",
            depth=spec.layout.depth,
            memory_per_slot_bytes=spec.layout.memory_per_slot_bytes,
        )

    def job_record(self, out: Path | str) -> JobRecord:
        """What the agents read; final weights go to `out`, a folder or a URL."""
        layers = self.facts.layers
        return JobRecord(
            spec=self.spec.model_dump(mode="json"),
            base=str(self.base),
            out=str(out.absolute()) if isinstance(out, Path) else out,
            layer_names=tuple(layer.name for layer in layers),
            layer_bytes=tuple(layer.state_bytes for layer in layers),
            microbatches=self.facts.microbatches,
            steps=self.spec.steps,
            global_batch=self.global_batch,
            versions=versions_here(),
            source_sha256=source_sha256(self.spec.program.entry, self.base),
            run=uuid.uuid4().hex[:8],
            identity=dict(self.identity),
            profile=profile_to_json(self.profile),
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
    prepared = Prepared(
        spec=spec,
        base=inspected.base,
        facts=inspected.facts,
        global_batch=inspected.program.global_batch,
        nodes=nodes,
        faults=faults,
        profile=_profile(wish, inspected),
        identity=inspected.identity,
        checkpoints=find_checkpoints(spec, inspected.identity, resume),
    )
    try:
        plan(prepared.request(most))
    except NoPlanError as error:
        raise SpecError(
            f"layout: the model does not fit: nodes {most}, slots_per_node {spec.slots_per_node}: {error}"
        ) from error
    return prepared


def _with_absolute_url(spec: JobSpec, base: Path) -> JobSpec:
    if spec.checkpoints.url is None:
        return spec
    checkpoints = spec.checkpoints.model_copy(update={"url": absolute_url(spec.checkpoints.url, base)})
    return spec.model_copy(update={"checkpoints": checkpoints})


def _profile(wish: Wish, inspected: Inspected) -> Profile:
    """What was measured, if it was, or what is known without. Raises: UserError: the file is wrong."""
    if wish.profile is not None:
        return read_profile(wish.profile, inspected)
    known = known_profile(inspected) if wish.is_here else None
    return known or estimated_profile(inspected.facts.layers)

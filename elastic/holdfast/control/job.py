"""What the coordinator knows of a job from its spec: bounds, sizes, patience."""

from dataclasses import dataclass

from holdfast.errors import UserError
from holdfast.model.records import JobRecord
from holdfast.planner.estimating import uniform_profile
from holdfast.planner.profile import Profile
from holdfast.planner.profile_json import profile_from_json
from holdfast.spec import JobSpec

# An agent whose lease ran out finds that out within a third of it, unless it cannot reach the store.
_LEASES_ABSENT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Constants of one job."""

    steps: int
    nodes_min: int
    nodes_max: int | None
    nodes_desired: int
    layer_names: tuple[str, ...]
    layer_bytes: tuple[int, ...]
    blocks: int
    block_size: int
    depth: int | None
    memory_per_slot_bytes: int | None
    profile: Profile  # as it was when the job was submitted
    start_s: float
    join_settle_s: float
    start_settle_s: float
    abort_s: float
    probe_s: float
    worker_deaths_per_step: int
    node_losses: int = 5  # after so many of late a node is put into quarantine
    absent_s: float = 6.0  # how long a node that lives may be without its key
    orphan_s: float = 600.0  # an agent without contact to the store for so long stops its workers
    has_checkpoints: bool = False  # there is a remote tier
    away_s: float = 3600.0  # for so long a restore waits for it
    has_snapshots: bool = False  # agents hold copies in RAM
    copies: int = 1  # further ones of each layer, in other failure domains, live ones counted
    is_canonical: bool = True
    is_adaptive: bool = True  # changes of layout that are not needed are weighed
    pace_settle_s: float = 1.0  # what slots tell of their pace within so long is weighed together

    @property
    def layer_count(self) -> int:
        return len(self.layer_names)


def job_of(record: JobRecord) -> Job:
    """Read the record that submitted the job.

    Raises:
        SpecError: its spec is not valid for this version.
        UserError: its profile is not.
    """
    return job_for(
        JobSpec.model_validate(record.spec),
        layer_names=record.layer_names,
        layer_bytes=record.layer_bytes,
        microbatches=record.microbatches,
        profile=_profile_of(record),
    )


def job_for(
    spec: JobSpec,
    *,
    layer_names: tuple[str, ...],
    layer_bytes: tuple[int, ...],
    microbatches: int,
    profile: Profile,
) -> Job:
    """Of a Program with these layers, so many bytes of state each, and so many microbatches a step."""
    return Job(
        steps=spec.steps,
        nodes_min=spec.nodes.min,
        nodes_max=spec.nodes.max,
        nodes_desired=spec.nodes.desired or spec.nodes.min,
        layer_names=layer_names,
        layer_bytes=layer_bytes,
        blocks=microbatches // spec.block,
        block_size=spec.block,
        depth=spec.layout.depth,
        memory_per_slot_bytes=spec.layout.memory_per_slot_bytes,
        profile=profile,
        start_s=spec.timeouts.start_s,
        join_settle_s=spec.timeouts.join_settle_s,
        start_settle_s=spec.timeouts.start_settle_s,
        abort_s=spec.timeouts.abort_s,
        probe_s=spec.timeouts.probe_s,
        worker_deaths_per_step=spec.failures.worker_deaths_per_step,
        node_losses=spec.failures.node_losses,
        absent_s=_LEASES_ABSENT * spec.timeouts.lease_ttl_s,
        orphan_s=spec.timeouts.orphan_s,
        has_checkpoints=spec.checkpoints.url is not None,
        away_s=spec.checkpoints.away_s,
        has_snapshots=spec.snapshots.every != 0,
        copies=spec.snapshots.copies,
        is_canonical=spec.reduction == "canonical",
        is_adaptive=spec.layout.adaptive,
    )


def _profile_of(record: JobRecord) -> Profile:
    if not record.profile:
        return uniform_profile(record.layer_names, record.layer_bytes)
    profile = profile_from_json(record.profile, "profile")
    if tuple(layer.name for layer in profile.layers) != record.layer_names:
        raise UserError("profile: it is of other layers than the job has; submit the job anew")
    return profile

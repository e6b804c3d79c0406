"""A job as its coordinator knows it, for replays: from its spec and profile, or from a table of measured throughput."""

from dataclasses import dataclass, replace

from holdfast.control.job import Job, job_for
from holdfast.model.ids import NodeId, SlotId
from holdfast.planner.foresight import Job as Shape
from holdfast.planner.foresight import foresee
from holdfast.simulator.replay.fitting import fit
from holdfast.simulator.replay.planned import Planned
from holdfast.simulator.replay.table import Table
from holdfast.simulator.replay.trace import Trace
from holdfast.spec import JobSpec

# Steps of a job that no trace ends.
_FOREVER = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """`layouts`: those that the planner chooses for the job, whose best for the nodes present is the ideal."""

    job: Job
    layouts: Planned

    def job_on(self, trace: Trace) -> Job:
        """Every node of the trace may train, and the job does not end before it."""
        first = len(trace.changes[0].joined) if trace.changes else 1
        return replace(
            self.job, steps=_FOREVER, nodes_min=1, nodes_max=None, nodes_desired=max(1, first), has_checkpoints=True
        )


def of_program(job: Job, global_batch: int) -> Runtime:
    """Of a job with a profile of its Program, nodes of one slot."""
    return Runtime(job=job, layouts=Planned(_shape(job), job.profile, global_batch))


def of_table(table: Table, spec: JobSpec) -> Runtime:
    """Of the cost model fitted to all of the table, with as much memory a slot as its shallowest pipelines need; what
    is no matter of the model is as `spec` says."""
    assert table.layer_bytes is not None, "a job has layers"
    profile = fit(table, sorted(table.step_s)).profile(table)
    layout = spec.layout.model_copy(update={"depth": None, "memory_per_slot_bytes": None})
    spec = spec.model_copy(update={"layout": layout, "reduction": "allreduce", "block": 1, "slots_per_node": 1})
    job = job_for(
        spec,
        layer_names=tuple(layer.name for layer in profile.layers),
        layer_bytes=table.layer_bytes,
        microbatches=table.microbatches,
        profile=profile,
    )
    memory = _memory(job, table.shallowest)
    return of_program(replace(job, memory_per_slot_bytes=memory), table.global_batch)


def _shape(job: Job) -> Shape:
    return Shape(
        slots=(),
        blocks=job.blocks,
        block_size=job.block_size,
        canonical=job.is_canonical,
        depth=job.depth,
        memory_per_slot_bytes=job.memory_per_slot_bytes,
    )


def _memory(job: Job, depth: int) -> int:
    """What the largest stage of one pipeline so deep takes."""
    slots = tuple(SlotId(NodeId(f"node-{number}"), 0) for number in range(depth))
    shape = replace(_shape(job), slots=slots, depth=depth)
    return max(stage.total for stage in foresee(shape, job.profile).memory)

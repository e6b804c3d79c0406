"""Reasons, for people."""

from collections.abc import Sequence

from holdfast.control.job import Job
from holdfast.control.recovery import LostLayers
from holdfast.control.view import View
from holdfast.model.records import WorkerRef


def epitaph(view: View, ref: WorkerRef) -> str:
    """A lost slot, and of what it died as far as that is known."""
    known = view.roster.died.get(ref.worker) or ("its agent is gone" if ref.worker in view.roster.dead else "")
    return f"{ref.slot} ({known})" if known else str(ref.slot)


def explain_lost(job: Job, view: View, lost: LostLayers, members_lost: Sequence[str]) -> str:
    """Why a job fails for want of a copy. `members_lost`: since the last start."""
    generation = view.generation
    assert generation is not None
    layers = ", ".join(job.layer_names[layer] for layer in lost.layers)
    left = ", ".join(sorted(view.member_nodes)) or "none"
    corrupt = sorted({ref.folder for ref in view.catalogue.committed} & view.catalogue.unsound)
    rotten = f"checkpoints found corrupt: {', '.join(corrupt)}; " if corrupt else ""
    gone = f"lost since the last start: {', '.join(members_lost)}; " if members_lost else ""
    return (
        f"the last copy of layers {layers} is gone: no live node holds them at step {view.committed_step} "
        f"or any other that all layers are found at (nodes left: {left}; "
        f"{gone}{rotten}generation {generation.number}: {generation.reason})"
    )

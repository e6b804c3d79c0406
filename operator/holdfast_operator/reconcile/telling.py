"""The status that a look at the job comes to."""

from holdfast_operator.api.v1alpha1 import names
from holdfast_operator.api.v1alpha1.status import CheckpointStatus, Disruptions, ElasticJobStatus, NodeCounts
from holdfast_operator.api.v1alpha1.times import text_of
from holdfast_operator.reconcile.ledger import Ledger
from holdfast_operator.reconcile.sizing import Size
from holdfast_operator.reconcile.snapshot import RunCheckpoint, RunSnapshot
from holdfast_operator.reconcile.view import View
from holdfast_operator.status.conditions import conditions
from holdfast_operator.status.facts import Facts, Stage, Trouble, Verdict
from holdfast_operator.status.gauges import is_fresh_enough, percent, progress, rate
from holdfast_operator.status.phase import phase


def status_of(
    view: View, ledger: Ledger, size: Size, stage: Stage, verdict: Verdict | None, troubles: tuple[Trouble, ...]
) -> ElasticJobStatus:
    """Equal to the one before where nothing changed that anybody needs to know by now."""
    before, now = view.job.status, text_of(view.now_s)
    shown = _with_run(view, before)
    told = conditions(_facts(view, shown, ledger, size, stage, verdict, troubles), before.conditions)
    is_counted = stage == "Active"
    after = shown.model_copy(
        update={
            "observed_generation": view.job.metadata.generation,
            "phase": phase(told),
            "conditions": told,
            "nodes": NodeCounts(
                desired=size.asked if is_counted else 0,
                wanted=size.wanted if is_counted else 0,
                ready=ready(view, ledger),
                draining=_draining(view, ledger),
            ),
            "replicas": len(ledger.staying) if stage != "Over" else 0,
            "selector": f"{names.LABEL_JOB}={view.job.metadata.name}",
            "disruptions": Disruptions(
                seen=before.disruptions.seen + ledger.seen, survived=before.disruptions.survived + ledger.survived
            ),
            "failures": ledger.failures,
            "started_time": before.started_time or (now if view.has_trained else None),
            "finished_time": before.finished_time or (now if stage == "Over" else None),
            "ledger": ledger.entries,
        }
    )
    if after == before or is_fresh_enough(before, after, view.snapshot.progress_s, view.is_due):
        return before
    return after.model_copy(update={"observed_time": now})


def ready(view: View, ledger: Ledger) -> int:
    pods = (view.pod_of(entry) for entry in ledger.staying)
    return sum(pod is not None and view.is_ready(pod) for pod in pods)


def _draining(view: View, ledger: Ledger) -> int:
    pods = (view.pod_of(entry) for entry in ledger.leaving)
    return sum(pod is not None and view.is_present(pod) for pod in pods)


def _facts(
    view: View,
    told: ElasticJobStatus,
    ledger: Ledger,
    size: Size,
    stage: Stage,
    verdict: Verdict | None,
    troubles: tuple[Trouble, ...],
) -> Facts:
    run = view.run
    return Facts(
        now_s=view.now_s,
        generation=view.job.metadata.generation,
        stage=stage,
        verdict=verdict,
        state=run.state if run is not None else None,
        store_trouble=view.snapshot.store_trouble,
        has_trained=view.has_trained,
        step=told.step or 0,
        saved_step=told.checkpoint.step if told.checkpoint is not None else None,
        nodes_min=view.job.spec.nodes.min,
        wanted=size.wanted,
        ready=ready(view, ledger),
        troubles=troubles,
        holding=run.reasons if run is not None else (),
    )


def _with_run(view: View, before: ElasticJobStatus) -> ElasticJobStatus:
    """With what the rendezvous shows; without one, what it showed stays told."""
    run = view.run
    if run is None:
        return before
    return before.model_copy(
        update={
            "generation": run.generation,
            "layout": run.layout,
            "step": run.step,
            "steps": run.steps,
            "progress": progress(run.step, run.steps),
            "samples_per_second": rate(run.samples_per_s),
            "goodput": percent(run.goodput),
            "recoveries": run.recoveries,
            "checkpoint": _checkpoint(view, run, before.checkpoint),
        }
    )


def _checkpoint(view: View, run: RunSnapshot, before: CheckpointStatus | None) -> CheckpointStatus | None:
    newest: RunCheckpoint | None = run.checkpoint
    if newest is None:
        return before
    if before is not None and (before.step, before.url) == (newest.step, newest.url):
        return before
    seen_s = newest.time_s if newest.time_s is not None else view.now_s
    return CheckpointStatus(step=newest.step, url=newest.url, time=text_of(seen_s))

"""`reconcile`: from what is seen of one job to what is to be done about it, and when to look again.

Level-triggered: a decision is made of the snapshot and of the status in it alone, so whoever decides, however often,
and however far the last one came, comes to the same. The status goes first: what is to happen to a pod is in its ledger
before it happens. Only nodes with notice are told before that, since that cannot wait and may be done twice.
"""

from collections.abc import Iterator

from holdfast_operator.api.v1alpha1 import names
from holdfast_operator.api.v1alpha1.job_spec import job_spec_yaml
from holdfast_operator.api.v1alpha1.problems import InvalidJobError
from holdfast_operator.api.v1alpha1.status import ElasticJobStatus
from holdfast_operator.reconcile import ending, leaving
from holdfast_operator.reconcile.actions import Action, ApplyConfig, CreatePod, CreateSecret, Decision, WriteStatus
from holdfast_operator.reconcile.events import events
from holdfast_operator.reconcile.ledger import DISRUPTIONS, Ledger, asked, look
from holdfast_operator.reconcile.placing import placed
from holdfast_operator.reconcile.pods import pod_manifest
from holdfast_operator.reconcile.sizing import size
from holdfast_operator.reconcile.snapshot import Snapshot
from holdfast_operator.reconcile.suspending import Suspension, is_free, suspension
from holdfast_operator.reconcile.telling import status_of
from holdfast_operator.reconcile.troubles import troubles
from holdfast_operator.reconcile.view import View, has_ended
from holdfast_operator.status.facts import Stage, Trouble, Verdict


def reconcile(snapshot: Snapshot) -> Decision:
    """Pure; see the module."""
    job = snapshot.job
    if job.spec.managed_by not in (None, names.OPERATOR) or job.metadata.deleted_s is not None:
        return Decision(actions=(), look_again_s=None)
    view = View(snapshot)
    plan = _Plan(view)
    actions = tuple(plan.actions())
    return Decision(actions=actions, look_again_s=view.look_again_s)


class _Plan:
    """What one look comes to, in the order in which one thing follows from another."""

    def __init__(self, view: View) -> None:
        self._view = view
        job = view.job
        self._suspension = suspension(view)
        was_over = job.status.finished_time is not None
        has_outcome = view.run is not None and view.run.outcome is not None
        seen = look(view, is_over=was_over or has_outcome)
        is_suspended = self._suspension is Suspension.WANTED
        self._verdict: Verdict | None = None
        if not was_over:
            self._verdict = ending.verdict(view, seen, is_suspended=is_suspended)
        self._stage = self._stage_now(is_over=was_over or self._verdict is not None, is_suspended=is_suspended)
        self._config, self._invalid = _config_of(view)
        self._size = size(view, seen)
        self._ledger = self._planned(seen)

    def _stage_now(self, *, is_over: bool, is_suspended: bool) -> Stage:
        if is_over:
            return "Over"
        if is_suspended:
            return "Suspended" if is_free(self._view) else "Suspending"
        return "Active"

    def _planned(self, seen: Ledger) -> Ledger:
        view = self._view
        match self._stage:
            case "Over":
                return self._ended(seen)
            case "Suspending" | "Suspended":
                return seen.marked(seen.staying, asked(view, "the job is suspended"))
            case _:
                return seen if self._invalid else placed(view, seen, self._size.asked)

    def _ended(self, seen: Ledger) -> Ledger:
        """Nodes of a job whose outcome stands end by themselves and keep their logs; of another they are told to, and
        what never joined has nothing to tell."""
        view = self._view
        running = [e for e in seen.staying if (pod := view.pod_of(e)) is None or not has_ended(pod)]
        has_outcome = view.run is not None and view.run.outcome is not None
        if running and has_outcome and not view.is_due(ending.ended_by_s(view)):
            running = [entry for entry in running if not entry.joined]
        running += [e for e in seen.staying if (pod := view.pod_of(e)) is not None and view.holds_host(pod)]
        notice_s = view.job.spec.preemption.notice
        return seen.bounded(view.now_s + notice_s).marked(running, asked(view, "the job is over", notice_s))

    def actions(self) -> Iterator[Action]:
        view, ledger = self._view, self._ledger
        status = self._status()
        # Before anything that the API server may refuse or be slow about.
        urgent = tuple(leaving.drains(view, (e for e in ledger.leaving if e.leaving in DISRUPTIONS)))
        yield from urgent
        if self._makes_pods:
            yield from self._made_first()
        if status != view.job.status:
            yield WriteStatus(status=status)
            yield from events(view.job, status, ledger.news)
        yield from (drain for drain in leaving.drains(view, ledger.leaving) if drain not in urgent)
        yield from leaving.forced(view)
        yield from leaving.removals(view, ledger, is_over=self._stage == "Over")
        yield from leaving.cancellations(view)
        if self._makes_pods:
            yield from self._made()
        if (expiry := ending.expiry(view)) is not None:
            yield expiry

    @property
    def _makes_pods(self) -> bool:
        return self._stage == "Active" and not self._invalid

    def _made_first(self) -> Iterator[Action]:
        """What pods mount."""
        name = self._view.job.metadata.name
        if not self._view.snapshot.has_secret:
            yield CreateSecret(name=names.secret_name(name))
        if self._config is not None:
            yield ApplyConfig(name=names.config_name(name), spec=self._config)

    def _made(self) -> Iterator[CreatePod]:
        job = self._view.job
        for entry in self._ledger.staying:
            if not entry.uid:
                name = names.pod_name(job.metadata.name, entry.index)
                yield CreatePod(name=name, manifest=pod_manifest(job, entry.index))

    def _status(self) -> ElasticJobStatus:
        view, ledger = self._view, self._ledger
        found: tuple[Trouble, ...] = ()
        if self._stage == "Active":
            found = tuple(troubles(view, ledger, self._size, self._suspension, self._invalid))
        return status_of(view, ledger, self._size, self._stage, self._verdict, found)


def _config_of(view: View) -> tuple[str | None, str]:
    """The runtime's job spec, where one is to be written, and what is wrong with it. What it is made of changes with
    the object's generation alone."""
    job, held = view.job, view.snapshot.config
    if held is not None and job.status.observed_generation == job.metadata.generation:
        return None, ""
    try:
        wanted = job_spec_yaml(job)
    except InvalidJobError as error:
        return None, str(error)
    return (wanted if wanted != held else None), ""

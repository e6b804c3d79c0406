"""Keeps the ledger of a job's pods: each is entered before it is made, marked when it goes, and crossed out once nobody
can take it for new again. What is counted is counted at a mark, and each mark is set once: the ledger lies in the
status, which is written only over the version that it was read from, and before anything is deleted."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from typing import Literal

from holdfast.model.records import Result
from holdfast.telemetry.run_state import RunState
from holdfast_operator.api.v1alpha1.status import Failure, NodeEntry
from holdfast_operator.api.v1alpha1.times import seconds_of, text_of
from holdfast_operator.reconcile import failures, notices
from holdfast_operator.reconcile.brevity import shortened
from holdfast_operator.reconcile.notices import Departure
from holdfast_operator.reconcile.snapshot import PodPhase, PodView
from holdfast_operator.reconcile.view import View, has_ended

# Another operator's cache may show a pod for so long after it is gone, which must not be counted anew.
KEPT_S = 600.0
# A cache that does not show a pod for so long does not lag; likewise a rendezvous that does not show its agent.
UNSEEN_S = 10.0
# So long is waited for the job to train on without a node that went; then it did not survive that.
_UNSETTLED_KEPT_S = 3600.0
_REASON_BYTES_MAX = 128
_GONE_MIN = 100  # pods of a small job that come and go quickly
DISRUPTIONS = ("Notice", "Lost", "Left")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """After a look at the snapshot; what was counted in this look is told beside it."""

    entries: tuple[NodeEntry, ...]
    failures: tuple[Failure, ...]
    seen: int = 0
    survived: int = 0
    news: tuple[NodeEntry, ...] = field(default=())  # marked in this look

    @property
    def staying(self) -> tuple[NodeEntry, ...]:
        return tuple(entry for entry in self.entries if not entry.leaving)

    @property
    def leaving(self) -> tuple[NodeEntry, ...]:
        return tuple(entry for entry in self.entries if entry.leaving)

    def with_entries(self, entries: Iterable[NodeEntry]) -> "Ledger":
        return replace(self, entries=tuple(sorted(entries, key=lambda entry: (entry.index, entry.uid))))

    def bounded(self, until_s: float) -> "Ledger":
        """Those that leave with all the time there is have until then."""
        until = text_of(until_s)
        return self.with_entries(
            entry.model_copy(update={"until": until}) if entry.leaving and entry.until is None else entry
            for entry in self.entries
        )

    def marked(self, chosen: Iterable[NodeEntry], mark: "Mark") -> "Ledger":
        """`chosen` leave, as the operator wants it; those that were never made are forgotten."""
        taken = set(chosen)
        kept = (mark.on(entry) if entry in taken else entry for entry in self.entries)
        return self.with_entries(entry for entry in kept if entry.uid or not entry.leaving)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """That a node leaves, from `at_s` on."""

    kind: Literal["Notice", "Lost", "Left", "Failed", "Asked"]
    reason: str
    at_s: float
    until_s: float  # infinite: until nothing hangs on it
    generation: int | None

    def on(self, entry: NodeEntry, *, counted: bool = False) -> NodeEntry:
        return entry.model_copy(
            update={
                "leaving": self.kind,
                "reason": shortened(self.reason, _REASON_BYTES_MAX),
                "since": text_of(self.at_s),
                "until": text_of(self.until_s) if isfinite(self.until_s) else None,
                "generation": self.generation,
                "counted": entry.counted or counted,
            }
        )


def asked(view: View, reason: str, grace_s: float = inf) -> Mark:
    """Nobody waits for a node that the operator has no more use for: it may move and upload all that it holds, and what
    it holds nobody else may."""
    generation = view.run.generation if view.run is not None else None
    at_s = view.now_s
    return Mark(kind="Asked", reason=reason, at_s=at_s, until_s=at_s + grace_s, generation=generation)


def look(view: View, *, is_over: bool) -> Ledger:
    """The ledger of the job's status with what the snapshot tells. Once the job is over no end is counted any more."""
    status = view.job.status
    recent = failures.within_window(view, status.failures)
    before = tuple(_adopted(view, status.ledger))
    after = tuple(_looked_at(view, entry, is_over=is_over) for entry in before)
    news = tuple(new for old, new in zip(before, after, strict=True) if new.leaving and not old.leaving)
    failed = (failures.record(view, view.pods[entry.uid], entry) for entry in news if entry.leaving == "Failed")
    survived = sum(new.survived and not old.survived for old, new in zip(before, after, strict=True))
    ledger = Ledger(
        entries=(),
        failures=failures.told((*recent, *failed)),
        seen=sum(entry.counted for entry in news),
        survived=survived,
        news=news,
    )
    return ledger.with_entries(_kept(view, after))


def _kept(view: View, entries: Iterable[NodeEntry]) -> Iterator[NodeEntry]:
    """Of those whose pods are gone the newest, about as many as the job may have nodes, and without what is only told
    of pods that are there."""
    gone = []
    for entry in entries:
        if not entry.leaving or entry.uid in view.pods:
            yield entry
        elif not _is_forgotten(view, entry):
            gone.append(entry.model_copy(update={"reason": "", "until": None, "absent": None}))
    gone.sort(key=_since_s)
    yield from gone[-max(_GONE_MIN, view.job.spec.nodes.max) :]


def _adopted(view: View, entries: Iterable[NodeEntry]) -> Iterator[NodeEntry]:
    """The entries, with the pods that were made for them, or by an operator whose ledger was lost."""
    known = {entry.uid for entry in entries}
    new = {pod.index: pod for pod in view.pods.values() if pod.uid not in known}
    for entry in entries:
        pod = new.pop(entry.index, None) if not entry.uid else None
        yield entry.model_copy(update={"uid": pod.uid}) if pod is not None else entry
    yield from (NodeEntry(index=pod.index, uid=pod.uid) for pod in new.values())


def _looked_at(view: View, entry: NodeEntry, *, is_over: bool) -> NodeEntry:
    pod = view.pod_of(entry)
    if entry.leaving:
        return _settled(view, _absent(view, _hastened(view, entry, pod), pod), pod)
    if pod is None:
        return _vanished(view, entry, is_over=is_over)
    if entry.since is not None or (view.is_present(pod) and not entry.joined):
        entry = entry.model_copy(update={"joined": entry.joined or view.is_present(pod), "since": None})
    departure = _departure(view, pod, is_over=is_over)
    if departure is None:
        return entry
    counts = departure.kind in DISRUPTIONS and (entry.joined or pod.phase is not PodPhase.PENDING) and not is_over
    return _mark(view, departure).on(entry, counted=counts)


def _departure(view: View, pod: PodView, *, is_over: bool) -> Departure | None:
    if not has_ended(pod):
        return notices.loss(view, pod) or notices.notice(view, pod)
    return failures.departure(view, pod) if not is_over else None


def _vanished(view: View, entry: NodeEntry, *, is_over: bool) -> NodeEntry:
    """Its pod is not to be seen: somebody removed it, in an instant, or the cache lags, which is found out by waiting,
    unless its agent is in the rendezvous, or another pod has its name."""
    if not entry.uid:
        return entry
    is_there = view.run is not None and view.node(entry.index) in view.run.nodes
    has_other = any(pod.index == entry.index for pod in view.pods.values())
    if not has_other:
        if is_there or not view.is_readable:
            return entry
        if entry.since is None:
            entry = entry.model_copy(update={"since": text_of(view.now_s)})
        if not view.is_due(_since_s(entry) + UNSEEN_S):
            return entry
    departure = Departure(kind="Lost", reason="its pod vanished", until_s=view.now_s)
    return _mark(view, departure).on(entry, counted=entry.joined and not is_over)


def _hastened(view: View, entry: NodeEntry, pod: PodView | None) -> NodeEntry:
    """With a sooner end, if one was announced since; not counted again."""
    if pod is None or has_ended(pod) or entry.leaving not in ("Asked", "Notice"):
        return entry
    departure = notices.loss(view, pod)
    if departure is None and pod.deleted_s is None:
        departure = notices.notice(view, pod)
    if departure is None or (departure.kind != "Lost" and departure.until_s >= _until_s(entry) - 1.0):
        return entry
    kind = departure.kind if departure.kind == "Lost" else entry.leaving
    changed = _mark(view, departure).on(entry)
    return changed.model_copy(update={"leaving": kind, "generation": entry.generation})


def _absent(view: View, entry: NodeEntry, pod: PodView | None) -> NodeEntry:
    """With since when its agent is not to be seen, which a lease that was late for once looks like."""
    is_gone = pod is not None and view.is_readable and not (has_ended(pod) or view.is_present(pod))
    if is_gone is (entry.absent is not None):
        return entry
    return entry.model_copy(update={"absent": text_of(view.now_s) if is_gone else None})


def _settled(view: View, entry: NodeEntry, pod: PodView | None) -> NodeEntry:
    """With the job's survival, once it trains without that node, or has ended well."""
    run = view.run
    if not entry.counted or entry.survived or run is None:
        return entry
    is_newer = run.generation is not None and (entry.generation is None or run.generation > entry.generation)
    is_without = not view.is_member(view.node(entry.index)) or (pod is None and is_newer)
    is_well = run.outcome is not None and run.outcome.result is not Result.FAILED
    if is_well or (run.state is RunState.TRAINING and is_without):
        return entry.model_copy(update={"survived": True})
    return entry


def _is_forgotten(view: View, entry: NodeEntry) -> bool:
    is_settled = entry.survived or not entry.counted
    return view.is_due(_since_s(entry) + (KEPT_S if is_settled else _UNSETTLED_KEPT_S))


def _since_s(entry: NodeEntry) -> float:
    assert entry.since is not None
    return seconds_of(entry.since)


def _until_s(entry: NodeEntry) -> float:
    return seconds_of(entry.until) if entry.until is not None else inf


def _mark(view: View, departure: Departure) -> Mark:
    generation = view.run.generation if view.run is not None else None
    return Mark(
        kind=departure.kind,
        reason=departure.reason,
        at_s=view.now_s,
        until_s=departure.until_s,
        generation=generation,
    )

"""A job as its rendezvous shows it, folded from what changes there into what `reconcile` looks at."""

import logging
from collections.abc import Iterable

from holdfast.errors import ProtocolError, SpecError
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.model.records import (
    Cause,
    CheckpointsRecord,
    DrainRecord,
    GenerationRecord,
    JobRecord,
    NodeRecord,
    StartRecord,
)
from holdfast.model.wire import decode
from holdfast.spec import parse_spec
from holdfast.telemetry.recorder import Recorder
from holdfast_operator.reconcile.snapshot import RunCheckpoint, RunDrain, RunNode, RunSnapshot

log = logging.getLogger(__name__)
_LOSSES = frozenset({Cause.LOSS, Cause.WORKER_DIED, Cause.COMMUNICATION, Cause.STALLED})
# Goodput is that of the last so many steps, at least, and is computed anew once this share of them is new.
_STEPS_KEPT = 4096
_NEW_SHARE = 16
_GENERATIONS_KEPT = 64


class RunFold:
    """Feed it what stands, in the order of its changes, then every change; seeing the same again changes nothing."""

    def __init__(self, keys: Keys, *, recoveries: int, generation: int) -> None:
        """`recoveries`: how many were counted before, up to `generation`."""
        self._keys = keys
        self._recoveries, self._counted = recoveries, generation
        self._refused = ""  # why the job's spec cannot be read, in words
        self.leased: set[str] = set()  # what only living agents keep up
        self._reset()

    @property
    def trouble(self) -> str:
        """Why the job cannot be read, in words; what can be is in the snapshot."""
        return self._refused or next((self._odd[node] for node in sorted(self._odd)), "")

    def see(self, changes: Iterable[tuple[str, bytes | None]], now_s: float) -> bool:
        """Whether any of it is more than progress."""
        is_news = False
        for key, value in changes:
            kind, _, rest = key.removeprefix(self._keys.prefix).partition("/")
            is_news |= kind not in {"progress", "uploads", "reach", "suspects"}
            try:
                if value is None:
                    self._forget(kind, NodeId(rest))
                else:
                    self._fold(kind, NodeId(rest), value, now_s)
            except ProtocolError as error:
                log.error("run.malformed", extra={"key": key, "error": str(error)})
            if kind in {"nodes", "claims"}:
                (self.leased.discard if value is None else self.leased.add)(key)
            if self._recorder is not None:
                self._recorder.apply(key, value, now_s)
        self._forget_old()
        return is_news

    def incarnation_of(self, node: NodeId) -> str:
        """Of the agent that has this name now; "": none is shown."""
        shown = self._nodes.get(node)
        return shown.incarnation if shown is not None else ""

    def snapshot(self) -> RunSnapshot | None:
        """None: the job was not submitted yet."""
        if self._recorder is None:
            return None
        view = self._recorder.view()
        generation = self._generation
        return RunSnapshot(
            state=view.state,
            step=view.step,
            steps=view.steps,
            generation=view.generation,
            layout=view.layout,
            members=frozenset(ref.slot.node for ref in generation.members) if generation is not None else frozenset(),
            nodes=dict(self._nodes),
            drains=dict(self._drains),
            samples_per_s=view.samples_per_s,
            goodput=self._goodput_at(view.step),
            recoveries=self._recoveries,
            checkpoint=self._checkpoint,
            outcome=view.outcome,
            reasons=self._reasons,
        )

    def _reset(self) -> None:
        self._recorder: Recorder | None = None
        self._url = ""
        self._nodes: dict[NodeId, RunNode] = {}
        self._odd: dict[NodeId, str] = {}  # why a node's record cannot be read
        self._drains: dict[NodeId, RunDrain] = {}
        self._generation: GenerationRecord | None = None
        self._checkpoint: RunCheckpoint | None = None
        self._reasons: tuple[str, ...] = ()
        self._goodput: float | None = None
        self._goodput_step = 0  # from which on it is computed again
        self._kept_from = 0
        self._kept_number = 0  # the generation at which that was

    def _fold(self, kind: str, node: NodeId, value: bytes, now_s: float) -> None:
        match kind:
            case "nodes":
                self._joined(node, value)
            case "drains":
                drain = decode(DrainRecord, value)
                self._drains[node] = RunDrain(
                    node=node, grace_s=drain.grace_s, is_released=drain.released, reason=drain.reason
                )
            case "spec":
                self._submitted(value)
            case "generation":
                self._began(decode(GenerationRecord, value))
            case "start":
                self._reasons = decode(StartRecord, value).reasons
            case "checkpoints":
                self._listed(decode(CheckpointsRecord, value), now_s)

    def _forget(self, kind: str, node: NodeId) -> None:
        match kind:
            case "nodes":
                self._nodes.pop(node, None)
                self._odd.pop(node, None)
            case "drains":
                self._drains.pop(node, None)
            case "spec":
                self._reset()

    def _submitted(self, value: bytes) -> None:
        try:
            record = decode(JobRecord, value)
            spec = parse_spec(record.spec, source="its spec")
            self._recorder = Recorder(record, name=self._keys.job, global_batch=record.global_batch)
        except (ProtocolError, SpecError) as error:
            self._refused = f"the job in the rendezvous cannot be read: {error}"
            return
        self._refused, self._url = "", spec.checkpoints.url or ""

    def _joined(self, node: NodeId, value: bytes) -> None:
        """An agent is there for as long as its key is, whatever it says: nobody may take it for gone."""
        self._odd.pop(node, None)
        try:
            record = decode(NodeRecord, value)
        except ProtocolError as error:
            self._odd[node] = f"the record of node {node} cannot be read: {error}"
            self._nodes[node] = RunNode(node=node, incarnation="", is_warm=False)
            raise
        self._nodes[node] = RunNode(node=node, incarnation=record.incarnation, is_warm=bool(record.workers))

    def _began(self, record: GenerationRecord) -> None:
        self._generation = record
        if record.number > self._counted:
            self._counted = record.number
            self._recoveries += record.cause in _LOSSES

    def _listed(self, record: CheckpointsRecord, now_s: float) -> None:
        if not record.committed:
            self._checkpoint = None
            return
        newest = record.committed[-1]
        url = f"{self._url.rstrip('/')}/{newest.folder}"
        if self._checkpoint is None or self._checkpoint.url != url:
            self._checkpoint = RunCheckpoint(step=newest.version.step, url=url, time_s=now_s)

    def _goodput_at(self, step: int) -> float | None:
        if self._recorder is not None and (step >= self._goodput_step or self._goodput is None):
            self._goodput, self._goodput_step = (
                self._recorder.goodput(),
                step + 1 + min(step, _STEPS_KEPT) // _NEW_SHARE,
            )
        return self._goodput

    def _forget_old(self) -> None:
        """A run of weeks has millions of steps and thousands of generations, and an operator has hundreds of runs."""
        if self._recorder is None:
            return
        step, number = self._recorder.step, self._generation.number if self._generation is not None else 0
        if step - self._kept_from > 2 * _STEPS_KEPT or number - self._kept_number > _GENERATIONS_KEPT:
            self._kept_from, self._kept_number = max(self._kept_from, step - _STEPS_KEPT), number
            self._recorder.forget_before(self._kept_from)

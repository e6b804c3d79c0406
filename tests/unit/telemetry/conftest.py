"""A story: what the store shows of a run, told record by record to a recorder."""

from collections.abc import Sequence

import pytest

from holdfast.model.ids import NodeId, SlotId, WorkerId
from holdfast.model.keys import Keys
from holdfast.model.plan import Pipeline, Plan, Span, Stage
from holdfast.model.records import (
    AckPhase,
    Action,
    Cause,
    Commit,
    DrainRecord,
    FailureRecord,
    GenerationRecord,
    JobRecord,
    NodeAck,
    NodeRecord,
    OutcomeRecord,
    ProgressRecord,
    Result,
    SlotInventory,
    SlotStart,
    StartRecord,
    StopMode,
    Transfer,
    Version,
    WorkerRef,
)
from holdfast.model.wire import encode
from holdfast.telemetry.recorder import Recorder
from holdfast.telemetry.run_event import EventKind, RunEvent

KEYS = Keys(job="story")
LAYERS = ("embed", "one", "two", "head")
BLOCKS, BLOCK_SIZE = 4, 2


def commit(step: int, time_s: float, loss: float | None = None) -> Commit:
    """The loss, where none is given, is 1/step: the same whoever tells it."""
    return Commit(step=step, loss=1 / step if loss is None else loss, grad_norm=None, time_s=time_s)


def slot(node: str) -> SlotId:
    return SlotId(NodeId(node), 0)


def worker(node: str, life: int = 1) -> WorkerRef:
    return WorkerRef(slot=slot(node), worker=WorkerId(f"{node}#{life}"), address="h:1", pid=1000 * life + ord(node[-1]))


def plan(*pipelines: Sequence[str]) -> Plan:
    """Each pipeline: its nodes, which share the layers; blocks are shared evenly, the last takes the rest."""
    made = []
    for number, nodes in enumerate(pipelines):
        cuts = [len(LAYERS) * i // len(nodes) for i in range(len(nodes) + 1)]
        stages = tuple(Stage(slot(n), Span(cuts[i], cuts[i + 1])) for i, n in enumerate(nodes))
        blocks = Span(BLOCKS * number // len(pipelines), BLOCKS * (number + 1) // len(pipelines))
        made.append(Pipeline(stages, blocks))
    return Plan(tuple(made))


class Story:
    """Every sentence is one write to the store at `now_s`; events told so far are in `told`."""

    def __init__(self, steps: int = 40) -> None:
        spec = {"name": "story", "program": {"entry": "m:f"}, "steps": steps, "block": BLOCK_SIZE}
        job = JobRecord(
            spec=spec,
            base="/",
            out="/",
            layer_names=LAYERS,
            layer_bytes=(100,) * 4,
            microbatches=BLOCKS * BLOCK_SIZE,
            steps=steps,
        )
        self.recorder = Recorder(job, name="story", global_batch=16)
        self.now_s = 0.0
        self.told: list[RunEvent] = []

    def at(self, now_s: float) -> "Story":
        self.now_s = now_s
        return self

    def put(self, key: str, record: object) -> tuple[RunEvent, ...]:
        return self._apply(key, encode(record))

    def texts(self, kind: EventKind) -> list[str]:
        return [event.text for event in self.told if event.kind is kind]

    def joined(self, *nodes: str, incarnation: str = "i1") -> "Story":
        for node in nodes:
            self.node(node, workers=(worker(node),), incarnation=incarnation)
        return self

    def node(
        self, node: str, *, workers: Sequence[WorkerRef], died: Sequence[WorkerRef] = (), incarnation: str = "i1"
    ) -> "Story":
        record = NodeRecord(
            node=NodeId(node),
            incarnation=incarnation,
            host="h",
            port=1,
            domain="d",
            agent_pid=ord(node[-1]),
            workers=tuple(workers),
            died=tuple(ref.worker for ref in died),
        )
        self.put(KEYS.node(NodeId(node)), record)
        return self

    def vanished(self, node: str) -> "Story":
        self._apply(KEYS.node(NodeId(node)), None)
        return self

    def drain(self, node: str, *, released: bool = False) -> "Story":
        record = DrainRecord(node=NodeId(node), grace_s=30.0, reason="notice", released=released)
        self.put(KEYS.drain(NodeId(node)), record)
        return self

    def begun(self, number: int, nodes: str, cause: Cause = Cause.LOSS, leavers: Sequence[str] = ()) -> "Story":
        """`nodes`: one letter each."""
        record = GenerationRecord(
            number=number,
            members=tuple(worker(node) for node in nodes),
            leavers=tuple(NodeId(node) for node in leavers),
            stop=StopMode.BOUNDARY if cause in (Cause.START, Cause.DRAIN, Cause.JOIN) else StopMode.ABORT,
            cause=cause,
            reason=f"because of {cause.value}",
        )
        self.put(KEYS.one("generation"), record)
        return self

    def stopped(
        self, number: int, nodes: str, *, version: Version | None = None, commits: Sequence[Commit] = ()
    ) -> "Story":
        for node in nodes:
            self._ack(number, node, AckPhase.STOPPED, version, commits)
        return self

    def started(
        self,
        number: int,
        chosen: Plan | None,
        *,
        version: Version = Version(0, 0),  # noqa: B008 (frozen)
        action: Action = Action.TRAIN,
        transfers: Sequence[Transfer] = (),
        roll_forward: Commit | None = None,
        redone_steps: int = 0,
    ) -> "Story":
        record = StartRecord(
            generation=number,
            action=action,
            version=version,
            plan=chosen,
            transfers=tuple(transfers),
            roll_forward=roll_forward,
            redone_steps=redone_steps,
            initialise=version.step == 0,
        )
        self.put(KEYS.start(number), record)
        return self

    def running(self, number: int, nodes: str, starts: Sequence[SlotStart] = ()) -> "Story":
        for node in nodes:
            mine = tuple(s for s in starts if s.slot.node == node) or (ready(node),)
            self._ack(number, node, AckPhase.RUNNING, None, (), mine)
        return self

    def commits(self, number: int, *commits: Commit) -> "Story":
        self.put(KEYS.one("progress"), ProgressRecord(generation=number, commits=commits))
        return self

    def steps(self, number: int, first: int, last: int, *, at_s: float, each_s: float = 1.0) -> "Story":
        """Steps first to last, the first one committed at `at_s`, one record each."""
        for step in range(first, last + 1):
            self.commits(number, commit(step, at_s + (step - first) * each_s))
        return self

    def failed(self, step: int) -> "Story":
        failure = FailureRecord(slot=slot("a"), step=step, where="layer two", traceback="Traceback: boom")
        record = OutcomeRecord(result=Result.FAILED, reason="that is why", step=step, failure=failure)
        self.put(KEYS.one("outcome"), record)
        return self

    def ended(self, result: Result, step: int) -> "Story":
        self.put(KEYS.one("outcome"), OutcomeRecord(result=result, reason="that is why", step=step))
        return self

    def trained_to(self, step: int) -> "Story":
        """Two nodes, one pipeline each, a step a second from second 10 on."""
        self.joined("a", "b").begun(1, "ab", Cause.START).at(1).stopped(1, "ab")
        self.at(2).started(1, plan("a", "b")).at(9).running(1, "ab")
        return self.steps(1, 1, step, at_s=10.0)

    def _ack(
        self,
        number: int,
        node: str,
        phase: AckPhase,
        version: Version | None,
        commits: Sequence[Commit],
        starts: tuple[SlotStart, ...] = (),
    ) -> None:
        inventory = SlotInventory(
            slot=slot(node),
            worker=WorkerId(f"{node}#1"),
            layers=() if version is None else (0,),
            version=version,
            commits=tuple(commits),
        )
        ack = NodeAck(
            generation=number,
            node=NodeId(node),
            incarnation="i1",
            phase=phase,
            inventory=(inventory,),
            starts=starts,
        )
        self.put(KEYS.ack(number, NodeId(node)), ack)

    def _apply(self, key: str, value: bytes | None) -> tuple[RunEvent, ...]:
        events = self.recorder.apply(key, value, self.now_s)
        self.told.extend(events)
        return events


def ready(node: str, received: Sequence[tuple[str, int]] = (), move_s: float = 0.0) -> SlotStart:
    return SlotStart(
        slot=slot(node),
        form_s=0.25,
        move_s=move_s,
        received=tuple((slot(source), size) for source, size in received),
        initialised_layers=0,
    )


@pytest.fixture
def story() -> Story:
    return Story()

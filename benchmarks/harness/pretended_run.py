"""What the agents of a job write in its rendezvous, made up: as many records, of the same kinds, and as large."""

import time
from collections.abc import Iterable, Iterator

from holdfast.model.ids import NodeId, SlotId, WorkerId
from holdfast.model.keys import Keys
from holdfast.model.plan import Pipeline, Plan, Span, Stage
from holdfast.model.records import (
    AckPhase,
    Action,
    AgentRef,
    Cause,
    Commit,
    DrainRecord,
    GenerationRecord,
    JobRecord,
    NodeAck,
    NodeRecord,
    ProgressRecord,
    SlotStart,
    StartRecord,
    StopMode,
    Version,
    WorkerRef,
)
from holdfast.model.wire import encode
from holdfast.ports.store import Delete, Operation, Put

_LAYERS, _BLOCKS, _PORT = 12, 60, 4710


class PretendedRun:
    """One job. Each method gives what is to be written, in one transaction."""

    def __init__(self, job: str, nodes: int) -> None:
        """Training begins once there are so many nodes."""
        self.keys = Keys(job=job)
        self._wanted, self._here, self._known = nodes, dict[NodeId, str](), set[str]()
        self._generation, self._step = 0, 0

    @property
    def is_training(self) -> bool:
        return self._generation > 0

    def knows(self, incarnation: str) -> bool:
        """Also one that has left."""
        return incarnation in self._known

    def joined(self, node: NodeId, incarnation: str, lease: int) -> tuple[Operation, ...]:
        self._here[node] = incarnation
        self._known.add(incarnation)
        record = NodeRecord(
            node=node,
            incarnation=incarnation,
            host="10.99.0.1",
            port=_PORT,
            domain="zone",
            agent_pid=1,
            workers=(_worker(node),),
        )
        put = Put(key=self.keys.node(node), value=encode(record), lease=lease)
        return put, *self._formed(Cause.JOIN)

    def left(self, node: NodeId, incarnation: str) -> tuple[Operation, ...]:
        """Without a word, unless it was drained."""
        if self._here.get(node) != incarnation:
            return ()
        del self._here[node]
        return Delete(key=self.keys.node(node)), *self._formed(Cause.LOSS)

    def drained(self, drain: DrainRecord) -> tuple[Operation, ...]:
        """It is released at once, and gone."""
        if self._here.pop(drain.node, None) is None:
            return ()
        released = DrainRecord(
            node=drain.node,
            grace_s=drain.grace_s,
            reason=drain.reason,
            released=True,
            incarnation=drain.incarnation,
        )
        put = Put(key=self.keys.drain(drain.node), value=encode(released))
        return put, Delete(key=self.keys.node(drain.node)), *self._formed(Cause.DRAIN)

    def stepped(self) -> tuple[Operation, ...]:
        self._step += 1
        commit = Commit(step=self._step, loss=1.0, grad_norm=1.0, time_s=time.time())
        record = ProgressRecord(generation=self._generation, commits=(commit,))
        return (Put(key=self.keys.one("progress"), value=encode(record)),)

    def _formed(self, cause: Cause) -> Iterator[Operation]:
        """A generation of those that are there."""
        nodes = sorted(self._here)
        if not self.is_training:
            if len(nodes) < self._wanted:
                return
            yield Put(key=self.keys.one("spec"), value=encode(_job(self.keys.job, self._wanted)))
        if not nodes:
            return
        self._generation += 1
        number, begun = self._generation, Cause.START if self._generation == 1 else cause
        generation = GenerationRecord(
            number=number,
            members=tuple(_worker(node) for node in nodes),
            leavers=(),
            stop=StopMode.BOUNDARY,
            cause=begun,
            reason=str(begun),
            agents=tuple(_agent(node, self._here[node]) for node in nodes),
        )
        start = StartRecord(
            generation=number,
            action=Action.TRAIN,
            version=Version(self._step, number - 1),
            plan=_plan(nodes),
            transfers=(),
            roll_forward=None,
            redone_steps=0,
            initialise=number == 1,
        )
        yield Put(key=self.keys.one("generation"), value=encode(generation))
        yield Put(key=self.keys.start(number), value=encode(start))
        yield from self._acks(number, nodes)

    def _acks(self, generation: int, nodes: Iterable[NodeId]) -> Iterator[Operation]:
        for node in nodes:
            started = SlotStart(slot=SlotId(node, 0), form_s=0.1, move_s=0.1, received=(), initialised_layers=0)
            ack = NodeAck(
                generation=generation,
                node=node,
                incarnation=self._here[node],
                phase=AckPhase.RUNNING,
                starts=(started,),
            )
            yield Put(key=self.keys.ack(generation, node), value=encode(ack))


def _job(name: str, nodes: int) -> JobRecord:
    return JobRecord(
        spec={
            "name": name,
            "program": {"entry": "gpt.py:program"},
            "steps": 10**6,
            "nodes": {"min": 1, "max": nodes, "desired": nodes},
        },
        base="/",
        out="",
        layer_names=tuple(f"layer {number}" for number in range(_LAYERS)),
        layer_bytes=(1 << 20,) * _LAYERS,
        microbatches=_BLOCKS,
        steps=10**6,
        global_batch=_BLOCKS,
    )


def _plan(nodes: list[NodeId]) -> Plan:
    """As many pipelines of one stage."""
    bounds = [number * _BLOCKS // len(nodes) for number in range(len(nodes) + 1)]
    return Plan(
        pipelines=tuple(
            Pipeline(stages=(Stage(SlotId(node, 0), Span(0, _LAYERS)),), blocks=Span(first, last))
            for node, first, last in zip(nodes, bounds, bounds[1:], strict=False)
        )
    )


def _worker(node: NodeId) -> WorkerRef:
    return WorkerRef(slot=SlotId(node, 0), worker=WorkerId(f"{node}-0"), address=f"10.99.0.1:{_PORT}", pid=2)


def _agent(node: NodeId, incarnation: str) -> AgentRef:
    return AgentRef(node=node, incarnation=incarnation, host="10.99.0.1", port=_PORT, domain="zone")

"""Builds the session of one node, and what its workers say to it."""

from collections.abc import Iterable
from typing import TypeVar

from holdfast.control.member import Identity, Member
from holdfast.control.member_commands import (
    MemberCommand,
    PutAck,
    TellWorker,
)
from holdfast.model.ids import NodeId, SlotId, WorkerId
from holdfast.model.messages import (
    Parked,
    Ready,
    Running,
)
from holdfast.model.plan import Pipeline, Plan, Span, Stage
from holdfast.model.records import (
    AckPhase,
    Action,
    Cause,
    GenerationRecord,
    SlotInventory,
    SlotStart,
    StartRecord,
    StopMode,
    Version,
    WorkerRef,
)

ME = NodeId("a")
C = TypeVar("C", bound=MemberCommand)


def slot(index: int) -> SlotId:
    return SlotId(ME, index)


def ready(index: int, life: int = 1) -> Ready:
    return Ready(slot=slot(index), worker=WorkerId(f"{index}#{life}"), pid=10 + index, address="host:1")


def ref(index: int, life: int = 1) -> WorkerRef:
    message = ready(index, life)
    return WorkerRef(slot=message.slot, worker=message.worker, address=message.address, pid=message.pid)


def generation(number: int, *members: WorkerRef, stop: StopMode = StopMode.BOUNDARY) -> GenerationRecord:
    return GenerationRecord(number=number, members=members, leavers=(), stop=stop, cause=Cause.JOIN, reason="test")


def start(number: int, *slots: SlotId, action: Action = Action.TRAIN) -> StartRecord:
    pipelines = tuple(Pipeline((Stage(s, Span(0, 2)),), Span(n, n + 1)) for n, s in enumerate(slots))
    return StartRecord(
        generation=number,
        action=action,
        version=Version(0, 0),
        plan=Plan(pipelines) if slots else None,
        transfers=(),
        roll_forward=None,
        redone_steps=0,
        initialise=True,
    )


def parked(index: int, number: int) -> Parked:
    inventory = SlotInventory(slot=slot(index), worker=WorkerId(f"{index}#1"), layers=(), version=None)
    return Parked(generation=number, inventory=inventory)


def running(index: int, number: int) -> Running:
    how = SlotStart(slot=slot(index), form_s=0.0, move_s=0.0, received=(), initialised_layers=0)
    return Running(generation=number, start=how)


def member(slots: int = 2, *, warm: bool = True) -> Member:
    identity = Identity(node=ME, incarnation="one", host="host", port=1, domain="d", pid=1, slots=slots)
    it = Member(identity, abort_s=5.0)
    list(it.begin())
    for index in range(slots if warm else 0):
        list(it.worker_said(index, ready(index)))
    return it


def training(slots: int = 2, number: int = 1) -> Member:
    """Runs that generation, alone."""
    it = member(slots)
    refs = [ref(index) for index in range(slots)]
    list(it.generation_seen(generation(number, *refs), 0.0))
    for index in range(slots):
        list(it.worker_said(index, parked(index, number)))
    list(it.start_seen(start(number, *(slot(index) for index in range(slots)))))
    for index in range(slots):
        list(it.worker_said(index, running(index, number)))
    return it


def only(kind: type[C], commands: Iterable[MemberCommand]) -> list[C]:
    return [command for command in commands if isinstance(command, kind)]


def told(commands: Iterable[MemberCommand]) -> list[tuple[int, object]]:
    return [(command.index, command.message) for command in only(TellWorker, commands)]


def phases(commands: Iterable[MemberCommand]) -> list[AckPhase]:
    return [command.ack.phase for command in only(PutAck, commands)]

"""A start that waits for a storage which is away is no failure of anybody's; it takes as long as the job allows."""

from dataclasses import replace

import pytest

from harness.coordination import JOB, Talk, kinds
from holdfast.control.member import Identity, Member
from holdfast.control.member_commands import MemberCommand, PutAck
from holdfast.model.commands import WriteGeneration, WriteOutcome
from holdfast.model.events import AckReceived
from holdfast.model.ids import NodeId, SlotId, WorkerId
from holdfast.model.messages import Parked, Ready
from holdfast.model.records import (
    AckPhase,
    Cause,
    GenerationRecord,
    NodeAck,
    SlotInventory,
    StopMode,
    WorkerRef,
)

PATIENT = replace(JOB, away_s=1800.0)


def waits(talk: Talk, node: str, why: str = "503") -> None:
    """Its agent says that it waits, or where there is no `why` that it does not any more."""
    ack = NodeAck(
        generation=talk.generation.number,
        node=NodeId(node),
        incarnation="one",
        phase=AckPhase.STOPPED,
        waits=why,
    )
    assert not talk.say(AckReceived(ack))


def starting() -> Talk:
    talk = Talk(PATIENT)
    talk.come("a", "b")
    talk.stopped("a", "b")
    return talk


def test_a_start_that_waits_for_the_storage_is_given_the_time_that_the_job_allows() -> None:
    talk = starting()
    waits(talk, "a")
    assert not talk.wait(1799.0)
    assert kinds(talk.wait(2.0)) == [WriteGeneration]
    assert talk.generation.cause is Cause.STALLED


def test_once_the_storage_answers_a_start_has_the_time_of_any_other() -> None:
    talk = starting()
    waits(talk, "a")
    talk.wait(600.0)
    waits(talk, "a", "")
    assert not talk.wait(59.0)
    assert kinds(talk.wait(2.0)) == [WriteGeneration]


@pytest.mark.parametrize("away", [True, False])
def test_what_breaks_while_the_storage_is_away_does_not_end_the_job(away: bool) -> None:
    talk = starting()
    ended = False
    for _ in range(12):
        if away:
            waits(talk, "a")
        said = [*talk.break_contact("b"), *talk.wait(60.0)]
        ended = any(isinstance(command, WriteOutcome) for command in said)
        if ended:
            break
        talk.stopped("a", "b")
    assert ended is not away


def test_a_wait_ends_with_its_generation() -> None:
    talk = starting()
    waits(talk, "a")
    talk.break_contact("b")
    talk.wait(60.0)
    talk.stopped("a", "b")
    assert kinds(talk.wait(61.0)) == [WriteGeneration], "nobody has said anything about this one"


def member() -> Member:
    """Of one slot, told to start generation 1."""
    me, slot = NodeId("a"), SlotId(NodeId("a"), 0)
    it = Member(Identity(node=me, incarnation="one", host="h", port=1, domain="d", pid=1, slots=1), abort_s=5.0)
    worker = WorkerRef(slot=slot, worker=WorkerId("w"), address="h:1", pid=1)
    list(it.begin())
    list(it.worker_said(0, Ready(slot=slot, worker=WorkerId("w"), pid=1, address="h:1")))
    list(it.generation_seen(generation(1, worker), 0.0))
    inventory = SlotInventory(slot=slot, worker=WorkerId("w"), layers=(), version=None)
    list(it.worker_said(0, Parked(generation=1, inventory=inventory)))
    return it


def generation(number: int, *members: WorkerRef) -> GenerationRecord:
    stop, cause = StopMode.BOUNDARY, Cause.START
    return GenerationRecord(number=number, members=members, leavers=(), stop=stop, cause=cause, reason="test")


def acks(commands: list[MemberCommand]) -> list[tuple[AckPhase, str]]:
    return [(said.ack.phase, said.ack.waits) for said in commands if isinstance(said, PutAck)]


def test_a_member_says_once_that_it_waits_and_once_that_it_does_not() -> None:
    it = member()
    assert acks(list(it.restore_waits(1, "no answer"))) == [(AckPhase.STOPPED, "no answer")]
    assert acks(list(it.restore_waits(1, "no answer"))) == []
    assert acks(list(it.restore_waits(1, ""))) == [(AckPhase.STOPPED, "")]


def test_what_a_restore_of_an_earlier_generation_waits_for_is_of_no_interest() -> None:
    it = member()
    list(it.generation_seen(generation(2), 0.0))
    assert acks(list(it.restore_waits(1, "no answer"))) == []

"""A failure ends the job if it is the job's; one bad newcomer does not end a healthy job."""

import pytest

from harness.coordination import Talk, kinds, outcome, training
from holdfast.control.member import Identity, Member
from holdfast.control.member_commands import Leave, MemberCommand, PutFailure, SpawnWorker, TellWorker
from holdfast.model.commands import WriteOutcome
from holdfast.model.events import UserCodeFailed
from holdfast.model.ids import NodeId, SlotId, WorkerId
from holdfast.model.messages import Exit, Failed, Ready
from holdfast.model.records import FailureRecord, GenerationRecord, Result

WARM_UP = Failed(step=0, where="start-up", traceback="Traceback:\nRuntimeError: no device\n")


def failure(talk: Talk, node: str, *, generation: int) -> UserCodeFailed:
    at = talk.ref(node)
    return UserCodeFailed(
        FailureRecord(slot=at.slot, step=7, where="layer", traceback="", worker=at.worker, generation=generation)
    )


def start_up(node: str) -> UserCodeFailed:
    return UserCodeFailed(FailureRecord(slot=SlotId(NodeId(node), 0), step=0, where="start-up", traceback=""))


def test_an_exception_in_the_users_code_ends_the_job_and_nothing_follows() -> None:
    talk = training("a", "b")

    record = outcome(talk.say(failure(talk, "b", generation=1))).record
    assert (record.result, record.reason) == (Result.FAILED, "step 7, b/0: layer")
    assert not talk.go("a")


def test_a_worker_that_does_not_get_warm_ends_a_job_that_has_not_begun() -> None:
    before_any = Talk()
    assert outcome(before_any.say(start_up("a"))).record.result is Result.FAILED

    forming = Talk()
    forming.come("a", "b")
    assert outcome(forming.say(start_up("c"))).record.result is Result.FAILED


def test_a_newcomer_that_does_not_get_warm_does_not_end_a_job_that_has_begun() -> None:
    talk = training("a", "b")

    assert not talk.say(start_up("c"))
    talk.go("b")
    assert not talk.say(start_up("c")), "a generation forms, and one was started before"
    assert WriteOutcome not in kinds(talk.commands)


def test_a_failure_after_one_that_does_not_count_is_not_missed() -> None:
    talk = training("a", "b")
    talk.coordinator.absorb(start_up("c"), talk.now_s)

    record = outcome(talk.say(failure(talk, "b", generation=1))).record
    assert record.reason == "step 7, b/0: layer"
    assert record.failure is not None
    assert record.failure.where == "layer"


def test_a_failure_in_what_was_started_last_ends_the_job_whoever_is_a_member_by_now() -> None:
    talk = training("a", "b")
    failed = failure(talk, "b", generation=1)
    talk.go("b")

    assert outcome(talk.say(failed)).record.result is Result.FAILED


def test_a_failure_of_long_ago_in_a_worker_that_was_left_behind_does_not_end_the_job() -> None:
    talk = training("a", "b")
    failed = failure(talk, "b", generation=1)
    talk.go("b")
    talk.stopped("a", step=1)

    assert not talk.say(failed)


# The node's side.


def member(*, slots: int, begun: bool = True) -> Member:
    """Of a job that has begun without it, or not yet."""
    node = NodeId("n")
    identity = Identity(node=node, incarnation="one", host="h", port=1, domain="n", pid=1, slots=slots)
    it = Member(identity, abort_s=5.0)
    list(it.begin())
    talk = training("a", "b")
    talk.go("b")
    lineage = talk.generation.lineage
    assert lineage, "something was started"
    record: GenerationRecord = talk.generation
    if begun:
        list(it.generation_seen(record, 0.0))
    return it


def ready(it: Member, index: int) -> list[MemberCommand]:
    slot = SlotId(it.identity.node, index)
    return list(it.worker_said(index, Ready(slot=slot, worker=WorkerId(f"w{index}"), pid=1, address="h:1")))


def test_a_node_whose_worker_does_not_get_warm_reports_it_before_the_job_has_begun() -> None:
    (put,) = member(slots=1, begun=False).worker_said(0, WARM_UP)

    assert isinstance(put, PutFailure)
    assert (put.record.worker, put.record.generation) == (None, 0)


def test_a_newcomer_whose_worker_does_not_get_warm_leaves_and_says_why() -> None:
    it = member(slots=2)
    ready(it, 0)
    told, leave = it.worker_said(1, WARM_UP)

    assert told == TellWorker(0, Exit(reason="n/1 cannot take part in the job: RuntimeError: no device"))
    assert leave == Leave("n/1 cannot take part in the job: RuntimeError: no device", refused=True)
    assert not list(it.worker_ended(1, 1))


def test_a_newcomer_whose_worker_process_keeps_ending_leaves() -> None:
    it = member(slots=1)
    assert list(it.worker_ended(0, 1)) == [SpawnWorker(0)]
    assert list(it.worker_ended(0, 1)) == [SpawnWorker(0)]
    (leave,) = it.worker_ended(0, 1)

    assert isinstance(leave, Leave)
    assert leave.refused
    assert "ended 3 times before it was warm" in leave.reason


def test_a_node_that_takes_part_goes_on_without_a_slot_that_does_not_get_warm_again() -> None:
    it = member(slots=2)
    for index in (0, 1):
        ready(it, index)
    list(it.worker_ended(1, -11))

    assert not list(it.worker_said(1, WARM_UP))
    assert not list(it.worker_ended(1, 1)), "it is not tried again"
    assert [ref.slot.index for ref in it.live_workers] == [0]
    list(it.worker_ended(0, -11))
    (leave,) = it.worker_said(0, WARM_UP)
    assert isinstance(leave, Leave), "nothing is left of it"


@pytest.mark.parametrize("index", [0, 1])
def test_a_failure_says_which_worker_it_was_and_what_it_was_told_to_start(index: int) -> None:
    it = member(slots=2)
    for each in (0, 1):
        ready(it, each)
    it.workers[index].told_start = 4
    (put,) = it.worker_said(index, Failed(step=3, where="layer", traceback="x"))

    assert isinstance(put, PutFailure)
    assert (put.record.worker, put.record.generation) == (f"w{index}", 4)

"""The session of one node, message by message."""

from harness.sessions import (
    ME,
    generation,
    member,
    only,
    parked,
    phases,
    ready,
    ref,
    running,
    slot,
    start,
    told,
    training,
)
from holdfast.control.member import Identity, Member
from holdfast.control.member_commands import (
    KillWorker,
    Leave,
    ProbeLeader,
    PutAck,
    PutFailure,
    PutNode,
    PutPace,
    PutProgress,
    PutSuspect,
    SpawnWorker,
)
from holdfast.model.measured import PaceRecord, SlotPace
from holdfast.model.messages import (
    Broken,
    Committed,
    Exit,
    Failed,
    Finished,
    Paced,
    Start,
    Stop,
)
from holdfast.model.records import (
    AckPhase,
    Commit,
    DrainRecord,
    OutcomeRecord,
    Result,
    StopMode,
)


def test_a_worker_is_spawned_for_every_slot() -> None:
    identity = Identity(node=ME, incarnation="one", host="host", port=1, domain="d", pid=1, slots=3)

    assert list(Member(identity, 5.0).begin()) == [SpawnWorker(0), SpawnWorker(1), SpawnWorker(2)]


def test_a_node_registers_when_all_its_workers_are_warm() -> None:
    it = member(warm=False)

    assert not list(it.worker_said(1, ready(1)))
    assert it.node_state == "starting"
    (put,) = only(PutNode, it.worker_said(0, ready(0)))
    assert put.record.workers == (ref(0), ref(1))
    assert it.node_state == "ready"


def test_a_generation_stops_the_members_as_it_says() -> None:
    for stop in StopMode:
        commands = member().generation_seen(generation(1, ref(0), ref(1), stop=stop), 0.0)
        wanted = Stop(generation=1, abort=stop is StopMode.ABORT)
        assert told(commands) == [(0, wanted), (1, wanted)]


def test_an_old_generation_is_not_followed() -> None:
    it = training(number=5)

    assert not list(it.generation_seen(generation(5, ref(0)), 0.0))
    assert not list(it.generation_seen(generation(4, ref(0)), 0.0))


def test_a_worker_that_is_no_member_is_not_stopped_or_started() -> None:
    it = member()

    assert told(it.generation_seen(generation(1, ref(1)), 0.0)) == [(1, Stop(generation=1, abort=False))]
    assert [index for index, _ in told(it.start_seen(start(1, slot(1))))] == [1]


def test_a_member_of_the_last_generation_that_the_new_one_leaves_out_is_freed() -> None:
    """Found by thinking, shown by the simulation: it would wait for ever in groups that nobody else forms."""
    it = training()

    commands = told(it.generation_seen(generation(2, ref(0)), 0.0))

    assert commands == [(0, Stop(generation=2, abort=False)), (1, Stop(generation=2, abort=True))]
    assert told(it.generation_seen(generation(3, ref(0)), 0.0)) == [(0, Stop(generation=3, abort=False))]


def test_the_node_answers_once_all_its_members_have() -> None:
    it = member()
    list(it.generation_seen(generation(1, ref(0), ref(1)), 0.0))

    assert not list(it.worker_said(0, parked(0, 1)))
    (put,) = only(PutAck, it.worker_said(1, parked(1, 1)))
    assert put.ack.phase is AckPhase.STOPPED
    assert [inventory.slot for inventory in put.ack.inventory] == [slot(0), slot(1)]
    assert not list(it.worker_said(1, parked(1, 1)))


def test_an_answer_to_an_older_stop_does_not_count() -> None:
    it = member(slots=1)
    list(it.generation_seen(generation(1, ref(0)), 0.0))
    list(it.generation_seen(generation(2, ref(0)), 0.0))

    assert not list(it.worker_said(0, parked(0, 1)))
    assert phases(it.worker_said(0, parked(0, 2))) == [AckPhase.STOPPED]


def test_running_and_finished_are_said_when_they_are_true_of_all() -> None:
    it = member()
    list(it.generation_seen(generation(1, ref(0), ref(1)), 0.0))
    for index in (0, 1):
        list(it.worker_said(index, parked(index, 1)))
    list(it.start_seen(start(1, slot(0), slot(1))))

    said = [phases(it.worker_said(index, running(index, 1))) for index in (0, 1)]
    said += [phases(it.worker_said(index, Finished(generation=1, step=9))) for index in (0, 1)]

    assert said == [[], [AckPhase.RUNNING], [], [AckPhase.FINISHED]]


def test_who_has_no_part_in_the_plan_need_not_finish() -> None:
    it = member()
    list(it.generation_seen(generation(1, ref(0), ref(1)), 0.0))
    list(it.start_seen(start(1, slot(0))))
    for index in (0, 1):
        list(it.worker_said(index, parked(index, 1)))
        list(it.worker_said(index, running(index, 1)))

    assert phases(it.worker_said(0, Finished(generation=1, step=9))) == [AckPhase.FINISHED]


def test_a_start_is_given_once_and_only_that_of_the_present_generation() -> None:
    it = member(slots=1)
    record = generation(2, ref(0))
    list(it.generation_seen(record, 0.0))

    assert not list(it.start_seen(start(1, slot(0))))
    assert told(it.start_seen(start(2, slot(0)))) == [(0, Start(generation=record, start=start(2, slot(0))))]
    assert not list(it.start_seen(start(2, slot(0))))


def test_a_worker_that_does_not_answer_an_abort_is_killed() -> None:
    it = training()
    list(it.generation_seen(generation(2, ref(0), ref(1), stop=StopMode.ABORT), 10.0))
    list(it.worker_said(0, parked(0, 2)))

    assert it.wake_at_s == 15.0
    assert not list(it.time_passed(14.9))
    assert [command.index for command in only(KillWorker, it.time_passed(15.0))] == [1]
    assert it.wake_at_s is None


def test_nobody_is_killed_where_a_boundary_is_waited_for_or_all_have_answered() -> None:
    it = training(slots=1)
    list(it.generation_seen(generation(2, ref(0)), 10.0))
    assert it.wake_at_s is None
    list(it.generation_seen(generation(3, ref(0), stop=StopMode.ABORT), 10.0))
    list(it.worker_said(0, parked(0, 3)))
    assert it.wake_at_s is None


def test_a_worker_that_died_is_reported_and_spawned_again() -> None:
    it = training()

    put, spawn = it.worker_ended(1, -9)

    assert isinstance(put, PutNode)
    assert put.record.workers == (ref(0),)
    assert put.record.died == ("1#1",)
    assert spawn == SpawnWorker(1)
    (back,) = only(PutNode, it.worker_said(1, ready(1, life=2)))
    assert back.record.workers == (ref(0), ref(1, life=2))


def test_a_worker_that_never_gets_warm_fails_the_job() -> None:
    it = member(warm=False)

    assert list(it.worker_ended(0, 1)) == [SpawnWorker(0)]
    assert list(it.worker_ended(0, 1)) == [SpawnWorker(0)]
    (failure,) = it.worker_ended(0, 1)
    assert isinstance(failure, PutFailure)
    assert failure.record.where == "start-up"


def test_only_deaths_in_a_row_count_as_failed_starts() -> None:
    it = member(warm=False)
    list(it.worker_ended(0, 1))
    list(it.worker_ended(0, 1))
    list(it.worker_said(0, ready(0)))
    list(it.worker_ended(0, 1))

    assert SpawnWorker(0) in list(it.worker_ended(0, 1))


def test_rank_0_reports_commits_for_all() -> None:
    it = training()
    commit = Commit(step=4, loss=0.5, grad_norm=None, time_s=0.0)

    (put,) = it.worker_said(0, Committed(generation=1, rank=0, commit=commit))

    assert isinstance(put, PutProgress)
    assert put.record.commits == (commit,)
    assert not list(it.worker_said(1, Committed(generation=1, rank=1, commit=commit)))
    assert it.step == 4


def test_what_all_slots_told_of_their_pace_in_a_generation_is_one_record() -> None:
    it = training()
    (first,) = only(PutPace, it.worker_said(0, Paced(generation=1, layer_s=((0, 0.1),))))
    assert first.record == PaceRecord(generation=1, node=ME, slots=(SlotPace(slot=slot(0), layer_s=((0, 0.1),)),))

    (both,) = only(PutPace, it.worker_said(1, Paced(generation=1, layer_s=((1, 0.2),))))
    assert [pace.slot for pace in both.record.slots] == [slot(0), slot(1)]
    (later,) = only(PutPace, it.worker_said(1, Paced(generation=2, layer_s=((1, 0.3),))))
    assert later.record == PaceRecord(generation=2, node=ME, slots=(SlotPace(slot=slot(1), layer_s=((1, 0.3),)),))


def test_lost_contact_is_reported_for_the_present_generation() -> None:
    suspect, ask = training().worker_said(0, Broken(generation=1, detail="reset"))

    assert isinstance(suspect, PutSuspect)
    assert (suspect.record.generation, suspect.record.stopping) == (1, False)
    assert ask == ProbeLeader()


def test_lost_contact_in_the_generation_before_is_reported_while_its_boundary_may_never_come() -> None:
    it = training()
    list(it.generation_seen(generation(2, ref(0), ref(1)), 0.0))
    suspect, _ = it.worker_said(0, Broken(generation=1, detail="reset"))
    assert isinstance(suspect, PutSuspect)
    assert (suspect.record.generation, suspect.record.stopping) == (2, True)

    for stop in (StopMode.ABORT, StopMode.BOUNDARY):
        late = training()
        list(late.generation_seen(generation(2, ref(0), ref(1), stop=stop), 0.0))
        if stop is StopMode.BOUNDARY:
            list(late.start_seen(start(2)))
        assert not list(late.worker_said(0, Broken(generation=1, detail="reset"))), "that is dealt with"


def test_an_exception_in_the_users_code_is_reported_with_its_slot() -> None:
    (put,) = training().worker_said(1, Failed(step=3, where="layer head", traceback="ZeroDivisionError"))

    assert isinstance(put, PutFailure)
    assert (put.record.slot, put.record.step) == (slot(1), 3)


def test_a_drain_waits_for_its_release() -> None:
    it = training()
    record = DrainRecord(node=ME, grace_s=30.0, reason="SIGTERM")

    assert not list(it.drain_seen(record, 10.0))
    assert it.node_state == "draining"
    assert it.wake_at_s == 40.0
    released = DrainRecord(node=ME, grace_s=30.0, reason="SIGTERM", released=True)
    *exits, leave = it.drain_seen(released, 12.0)
    assert [message for _, message in told(exits)] == [Exit(reason="drained: SIGTERM")] * 2
    assert isinstance(leave, Leave)


def test_a_drain_that_is_not_released_in_time_ends_all_the_same() -> None:
    it = training()
    list(it.drain_seen(DrainRecord(node=ME, grace_s=30.0, reason="x"), 10.0))
    list(it.drain_seen(DrainRecord(node=ME, grace_s=30.0, reason="x"), 39.0))  # keeps its deadline

    assert not only(Leave, it.time_passed(39.9))
    assert only(Leave, it.time_passed(40.0))


def test_a_drain_that_is_taken_back_is_forgotten() -> None:
    it = training()
    list(it.drain_seen(DrainRecord(node=ME, grace_s=30.0, reason="x"), 10.0))
    list(it.drain_seen(None, 11.0))

    assert it.node_state == "ready"
    assert it.wake_at_s is None


def test_a_node_leaves_once_and_then_spawns_nothing() -> None:
    it = training()
    outcome = OutcomeRecord(result=Result.COMPLETED, reason="done", step=9)

    assert len(only(Leave, it.outcome_seen(outcome))) == 1
    assert not list(it.outcome_seen(outcome))
    assert not list(it.worker_ended(0, 0))


def test_a_lease_taken_anew_says_again_what_the_old_one_said() -> None:
    """Found by the simulation: nobody had noticed, and the node had forgotten the generation it was part of."""
    it = training()

    put, ack = it.rejoined("two")

    assert isinstance(put, PutNode)
    assert put.record.incarnation == "two"
    assert isinstance(ack, PutAck)
    assert (ack.ack.incarnation, ack.ack.phase, ack.ack.generation) == ("two", AckPhase.RUNNING, 1)


def test_a_node_that_was_not_registered_has_nothing_to_say_again() -> None:
    assert not list(member(warm=False).rejoined("two"))


def test_a_node_taken_for_lost_joins_anew_with_the_same_workers() -> None:
    it = training()
    list(it.rejoined("two"))

    freed = told(it.generation_seen(generation(2), 0.0))
    assert freed == [(0, Stop(generation=2, abort=True)), (1, Stop(generation=2, abort=True))]
    assert not list(it.worker_said(0, parked(0, 2)))
    back = told(it.generation_seen(generation(3, ref(0), ref(1)), 0.0))
    assert back == [(0, Stop(generation=3, abort=False)), (1, Stop(generation=3, abort=False))]

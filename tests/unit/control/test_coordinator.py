"""Decisions of the coordinator, event by event. Whole runs are in tests/simulation."""

from dataclasses import replace

import pytest

from harness.coordination import JOB, Talk, kinds, outcome, training
from holdfast.control.coordinator import Coordinator
from holdfast.model.commands import (
    EvictNode,
    ProbeNode,
    ReleaseDrain,
    WriteGeneration,
    WriteOutcome,
    WriteStart,
)
from holdfast.model.events import (
    AckReceived,
    ContactLost,
    NodeChanged,
    NodeRefused,
    StopRequested,
    TimePassed,
)
from holdfast.model.ids import NodeId
from holdfast.model.records import (
    AckPhase,
    Action,
    Cause,
    NodeAck,
    Result,
    SlotInventory,
    StopMode,
    SuspectRecord,
    Version,
)


def test_the_first_generation_waits_for_the_desired_nodes_but_not_for_ever() -> None:
    talk = Talk()

    assert not talk.come("a")
    assert talk.coordinator.wake_at_s == 5.0
    assert not talk.wait(4.9)
    assert kinds(talk.wait(0.1)) == [WriteGeneration]
    assert kinds(Talk().come("a", "b")) == [WriteGeneration]


def test_the_first_generation_never_begins_below_the_minimum() -> None:
    talk = Talk(replace(JOB, nodes_min=2))
    talk.come("a")

    assert not talk.wait(1000.0)


def test_a_start_is_written_once_everyone_has_answered() -> None:
    talk = Talk()
    talk.come("a", "b")

    assert not talk.stopped("a")
    assert kinds(talk.stopped("b")) == [WriteStart]
    assert talk.start.initialise
    assert talk.start.action is Action.TRAIN
    assert not talk.stopped("a", "b")


def test_a_loss_begins_a_generation_at_once_by_abort() -> None:
    talk = training("a", "b", "c")

    assert kinds(talk.go("b")) == [WriteGeneration]
    assert (talk.generation.number, talk.generation.cause, talk.generation.stop) == (2, Cause.LOSS, StopMode.ABORT)
    assert [ref.slot.node for ref in talk.generation.members] == ["a", "c"]
    assert "b/0" in talk.generation.reason


def test_a_loss_while_a_generation_forms_begins_the_next() -> None:
    talk = training("a", "b", "c")
    talk.go("b")

    assert kinds(talk.go("c")) == [WriteGeneration]
    assert talk.generation.number == 3


def test_a_join_waits_for_more_and_for_a_step() -> None:
    talk = training("a", "b")

    assert not talk.come("c")
    assert talk.coordinator.wake_at_s == pytest.approx(0.2)
    assert kinds(talk.wait(0.2)) == [WriteGeneration]
    assert (talk.generation.cause, talk.generation.stop) == (Cause.JOIN, StopMode.BOUNDARY)
    talk.stopped("a", "b", "c", step=1)
    talk.running("a", "b", "c")
    talk.come("d")
    assert not talk.wait(10.0), "no step since the last join"
    assert kinds(talk.progress(2)) == [WriteGeneration]


def test_a_join_does_not_end_a_generation_that_forms() -> None:
    talk = training("a", "b")
    talk.drain("b")

    assert not talk.come("c")
    assert not talk.wait(1.0)


def test_nodes_beyond_the_maximum_do_not_disturb() -> None:
    talk = training("a", "b", job=replace(JOB, nodes_max=2))
    talk.come("c")

    assert not talk.wait(10.0)
    assert kinds(talk.go("a")) == [WriteGeneration]
    assert [ref.slot.node for ref in talk.generation.members] == ["b", "c"]


def test_of_too_many_nodes_those_that_hold_layers_train() -> None:
    talk = training("b", "c", job=replace(JOB, nodes_max=2))
    talk.come("a", "d")
    talk.go("c")
    talk.stopped("a", "d")
    talk.stopped("b", step=1)

    assert talk.start.plan is not None
    assert talk.start.plan.nodes == {"a", "b"}


def test_a_drain_is_released_when_what_the_node_held_lies_elsewhere() -> None:
    talk = training("a", "b")
    talk.drain("b")
    assert (talk.generation.cause, talk.generation.stop) == (Cause.DRAIN, StopMode.BOUNDARY)
    assert talk.generation.leavers == ("b",)

    talk.stopped("a", "b", step=2)
    assert not talk.running("b")
    assert kinds(talk.running("a")) == [ReleaseDrain]


def test_a_drain_before_anything_began_is_released_at_once() -> None:
    talk = Talk()
    talk.come("a")

    assert kinds(talk.drain("a")) == [ReleaseDrain]


def test_half_a_drains_grace_is_waited_for_a_boundary_and_no_longer() -> None:
    talk = training("a", "b")
    talk.drain("b", grace_s=8.0)

    assert talk.coordinator.wake_at_s == 4.0
    assert not talk.wait(3.9)
    assert kinds(talk.wait(0.1)) == [WriteGeneration]
    assert (talk.generation.cause, talk.generation.stop) == (Cause.DRAIN, StopMode.ABORT)
    assert "b must leave now" in talk.generation.reason


def test_a_drain_below_the_minimum_holds_what_the_node_had() -> None:
    talk = training("a", "b", job=replace(JOB, nodes_min=2))
    talk.drain("b")
    talk.ack("a", AckPhase.STOPPED, 2, layers=(0,))
    talk.ack("b", AckPhase.STOPPED, 2, layers=(1, 2))

    assert talk.start.action is Action.HOLD
    assert {(t.layer, t.source.node, t.target.node) for t in talk.start.transfers} == {(1, "b", "a"), (2, "b", "a")}
    assert not talk.running("a")
    assert kinds(talk.running("b")) == [ReleaseDrain]


def test_a_held_node_is_not_released_to_one_that_drains_as_well() -> None:
    """Found by the simulation: two nodes were let go, each because the other held everything."""
    talk = training("a", "b", job=replace(JOB, nodes_min=2))
    talk.drain("b")
    talk.stopped("a", "b", step=2)
    talk.drain("a")
    talk.running("a", "b")

    assert ReleaseDrain not in kinds(talk.commands)


def test_a_released_node_does_not_count_for_another_that_drains() -> None:
    talk = training("a", "b", job=replace(JOB, nodes_min=2))
    talk.drain("b")
    talk.stopped("a", "b", step=2)
    talk.running("a", "b")
    talk.drain("a")

    assert kinds(talk.commands).count(ReleaseDrain) == 1


def test_a_held_job_goes_on_when_a_node_comes() -> None:
    talk = training("a", "b", job=replace(JOB, nodes_min=2))
    talk.go("b")
    talk.stopped("a", step=1)
    talk.running("a")
    assert talk.start.action is Action.HOLD

    assert kinds(talk.come("c")) == [WriteGeneration]
    assert talk.generation.cause is Cause.RESUME


def test_the_weights_are_written_even_below_the_minimum() -> None:
    talk = training("a", "b", job=replace(JOB, nodes_min=2))
    talk.go("b")
    talk.stopped("a", step=JOB.steps)

    assert talk.start.action is Action.TRAIN
    assert talk.start.plan is not None


def test_a_stop_writes_the_weights_and_ends_the_job() -> None:
    talk = training("a", "b")

    assert kinds(talk.say(StopRequested("enough"))) == [WriteGeneration]
    assert talk.generation.stop is StopMode.BOUNDARY
    talk.stopped("a", "b", step=2)
    assert talk.start.action is Action.FINISH
    talk.running("a", "b")
    talk.ack("a", AckPhase.FINISHED)
    record = outcome(talk.ack("b", AckPhase.FINISHED)).record
    assert (record.result, record.reason, record.step) == (Result.STOPPED, "enough", 2)


def test_a_stop_that_finds_too_few_slots_waits_without_a_generation_after_the_other() -> None:
    talk = training("a", "b", job=replace(JOB, memory_per_slot_bytes=200))
    talk.go("b")
    talk.stopped("a", step=1)
    talk.running("a")
    assert talk.start.action is Action.HOLD

    talk.say(StopRequested("enough"))
    talk.stopped("a", step=1)
    assert talk.start.action is Action.HOLD
    assert not talk.running("a")
    assert talk.generation.cause is Cause.STOP
    assert kinds(talk.come("c")) == [WriteGeneration]


def test_a_job_whose_every_node_was_released_decides_nothing_until_one_comes() -> None:
    """Found by the simulation: generations without members followed one another without end."""
    talk = training("a", job=replace(JOB, nodes_desired=1))
    talk.drain("a")
    talk.stopped("a", step=0)
    talk.running("a")
    talk.say(StopRequested("enough"))

    assert len(talk.commands) < 10


def test_lost_contact_is_probed_once_and_then_tried_again() -> None:
    talk = training("a", "b")
    suspect = ContactLost(SuspectRecord(generation=1, node=NodeId("a"), detail="reset"))

    assert kinds(talk.say(suspect, suspect)) == [ProbeNode, ProbeNode]
    talk.answer("a", "b")
    assert not talk.wait(0.4)
    assert kinds(talk.wait(0.1)) == [WriteGeneration]
    assert (talk.generation.cause, talk.generation.stop) == (Cause.COMMUNICATION, StopMode.ABORT)


def test_communication_that_breaks_again_and_again_ends_the_job_even_if_it_never_ran() -> None:
    """Found by the simulation: breaks before everyone was running were not counted, and there was no end."""
    talk = training("a", "b")
    for _ in range(20):
        number = talk.generation.number
        said = talk.say(ContactLost(SuspectRecord(generation=number, node=NodeId("a"), detail="reset")))
        said += talk.answer("a", "b") + talk.wait(20.0)
        if WriteOutcome in kinds(said):
            break
        talk.stopped("a", "b", step=1)

    record = outcome(said).record
    assert record.result is Result.FAILED
    assert "10 times in a row at step 1" in record.reason


def test_a_worker_that_dies_at_the_same_step_ends_the_job_at_its_limit() -> None:
    talk = training("a", "b", job=replace(JOB, nodes_min=2))
    for death in range(3):
        said = talk.worker_dies("b")
        if death < 2:
            assert talk.generation.cause is Cause.WORKER_DIED
            assert talk.generation.trouble == death + 1
            talk.stopped("a", step=1)
            talk.stopped("b")

    record = outcome(said).record
    assert record.result is Result.FAILED
    assert "3 times in a row at step 1" in record.reason


def test_a_step_between_two_deaths_begins_the_count_anew() -> None:
    talk = training("a", "b")
    for step in range(2, 8):
        talk.worker_dies("b")
        assert talk.generation.trouble == 1
        talk.stopped("a", step=step - 1)
        talk.stopped("b")
        talk.running("a", "b")
        talk.progress(step)


def test_a_death_before_the_start_counts_for_nothing() -> None:
    """Nothing was begun that could be at fault."""
    talk = training("a", "b", job=replace(JOB, nodes_min=2))
    for _ in range(5):
        talk.worker_dies("b")

    assert talk.generation.trouble == 1


def test_who_does_not_stop_in_time_is_evicted() -> None:
    talk = training("a", "b", "c")
    talk.go("c")
    talk.stopped("a", step=1)

    assert not talk.wait(64.9)
    said = talk.wait(0.1)
    assert kinds(said) == [EvictNode, WriteGeneration]
    assert [ref.slot.node for ref in talk.generation.members] == ["a"]


def test_a_boundary_is_waited_for_as_long_as_it_takes() -> None:
    talk = training("a", "b")
    talk.say(StopRequested("enough"))

    assert not talk.wait(10_000.0)


def test_a_start_that_stalls_is_tried_again() -> None:
    talk = Talk()
    talk.come("a", "b")
    talk.stopped("a", "b")
    talk.running("a")

    assert not talk.wait(59.9)
    assert kinds(talk.wait(0.1)) == [WriteGeneration]
    assert talk.generation.cause is Cause.STALLED


def test_the_last_copy_gone_is_believed_only_after_a_while_and_names_layers_and_nodes() -> None:
    talk = training("a", "b")
    talk.go("b")
    assert not talk.ack("a", AckPhase.STOPPED, 1, layers=(0,))

    assert not talk.wait(4.9)
    record = outcome(talk.wait(0.1)).record
    assert record.result is Result.FAILED
    assert "layers middle, head is gone" in record.reason
    assert "nodes left: a" in record.reason
    assert "b/0" in record.reason


def test_a_node_that_comes_back_in_time_with_what_it_holds_saves_the_job() -> None:
    talk = training("a", "b")
    talk.go("b")
    talk.ack("a", AckPhase.STOPPED, 1, layers=(0,))
    talk.wait(4.0)

    assert kinds(talk.come("b")) == [WriteGeneration]
    talk.ack("a", AckPhase.STOPPED, 1, layers=(0,))
    assert kinds(talk.ack("b", AckPhase.STOPPED, 1, layers=(1, 2))) == [WriteStart]
    assert talk.start.version == Version(1, 1)


def test_nodes_that_come_with_nothing_do_not_put_the_end_off() -> None:
    talk = training("a", "b")
    talk.go("b")
    talk.ack("a", AckPhase.STOPPED, 1, layers=(0,))
    talk.wait(4.0)
    talk.come("c")
    talk.ack("a", AckPhase.STOPPED, 1, layers=(0,))
    talk.stopped("c")

    record = outcome(talk.wait(1.0)).record
    assert "nodes left: a, c; lost since the last start: b/0" in record.reason


def test_a_new_leader_goes_on_where_the_old_one_was() -> None:
    old = training("a", "b")
    new = Coordinator(JOB, now_s=50.0, generation=old.generation, start=old.start)
    for node in ("a", "b"):
        new.absorb(NodeChanged(NodeId(node), old.record(node)), 50.0)
        inventory = SlotInventory(slot=old.ref(node).slot, worker=old.ref(node).worker, layers=(), version=None)
        ack = NodeAck(
            generation=1, node=NodeId(node), incarnation="one", phase=AckPhase.RUNNING, inventory=(inventory,)
        )
        new.absorb(AckReceived(ack), 50.0)

    assert not new.handle(TimePassed(), 50.0)
    (command, _) = new.handle(NodeRefused(NodeId("b"), "one"), 51.0)
    assert isinstance(command, WriteGeneration)
    assert command.record.number == 2
    assert command.record.lineage == ((1, 0),)

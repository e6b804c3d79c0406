"""The coordinator where nodes flap, leases end without a loss, and stops come late."""

from dataclasses import replace

from harness.coordination import JOB, Talk, kinds, training
from holdfast.control.coordinator import Coordinator
from holdfast.model.commands import EvictNode, ProbeNode, ReleaseDrain, WriteGeneration, WriteStart
from holdfast.model.events import (
    ContactLost,
    DrainChanged,
    NodeChanged,
    NodeRefused,
    PardonChanged,
    TimePassed,
)
from holdfast.model.ids import NodeId
from holdfast.model.records import Action, Cause, DrainRecord, StopMode, SuspectRecord


def members(talk: Talk) -> list[str]:
    return [ref.slot.node for ref in talk.generation.members]


# Losses that are none.


def test_a_member_whose_key_goes_is_asked_whether_it_lives_before_it_counts_as_lost() -> None:
    talk = training("a", "b")

    assert kinds(talk.miss("b")) == [ProbeNode]
    assert not talk.answer("b")
    assert talk.generation.number == 1


def test_a_node_that_registers_anew_with_the_same_workers_was_never_lost() -> None:
    talk = training("a", "b")
    talk.miss("b")
    talk.answer("b")

    again = replace(talk.record("b"), incarnation="two")
    assert not talk.say(NodeChanged(NodeId("b"), again))
    assert not talk.wait(100.0)
    assert talk.generation.number == 1


def test_a_node_without_a_key_is_lost_at_once_when_it_is_dead_silent_or_too_long_away() -> None:
    for last_word in ("refused", "silent", "late"):
        talk = training("a", "b")
        talk.miss("b")
        if last_word == "refused":
            said = talk.say(NodeRefused(NodeId("b"), "one"))
        elif last_word == "silent":
            said = talk.silent("b")
        else:
            talk.answer("b")
            assert WriteGeneration not in kinds(talk.wait(JOB.absent_s - 0.1))
            said = talk.wait(0.1)
        assert WriteGeneration in kinds(said), last_word
        assert members(talk) == ["a"]


def test_a_dead_agent_is_lost_before_its_record_is_swept_away() -> None:
    """What its loss leaves undone comes first."""
    talk = training("a", "b")

    assert kinds(talk.say(NodeRefused(NodeId("b"), "one"))) == [WriteGeneration, EvictNode]
    assert "b/0 (its agent is gone)" in talk.generation.reason


def test_a_node_that_leaves_as_planned_is_not_asked() -> None:
    talk = training("a", "b", "c")
    talk.drain("b")
    talk.stopped("a", "b", "c", step=2)
    talk.running("a", "b", "c")

    assert not talk.miss("b")


def test_a_new_leader_asks_after_members_whose_keys_are_gone() -> None:
    """All leases ended while the store was away, and the first that came back leads."""
    old = training("a", "b")
    new = Coordinator(JOB, now_s=50.0, generation=old.generation, start=old.start)
    new.absorb(NodeChanged(NodeId("a"), old.record("a")), 50.0)

    (asked,) = new.handle(TimePassed(), 50.0)
    assert isinstance(asked, ProbeNode)
    assert (asked.record.node, asked.record.host, asked.record.port) == ("b", "host", 1)
    (command,) = new.handle(NodeRefused(NodeId("b"), "one"), 50.01)
    assert isinstance(command, WriteGeneration)


# Back-off and quarantine.


def flap(talk: Talk, node: str, *others: str, step: int) -> None:
    """It is lost, and comes back at once."""
    talk.go(node)
    talk.stopped(*others, step=step)
    talk.running(*others)
    talk.progress(step + 1)
    talk.come(node)


def join_all(talk: Talk, *nodes: str, step: int) -> None:
    talk.stopped(*nodes, step=step)
    talk.running(*nodes)
    talk.progress(step + 1)


def test_the_first_loss_costs_a_node_nothing_and_the_next_ones_ever_more_steps() -> None:
    talk = training("a", "b", "c")
    flap(talk, "b", "a", "c", step=1)
    assert kinds(talk.wait(1.0)) == [WriteGeneration]
    join_all(talk, "a", "b", "c", step=2)
    for losses, wait_steps in ((2, 1), (3, 2), (4, 4)):
        talk.now_s += 1000.0
        step = talk.coordinator.view.committed_step
        talk.go("b")
        talk.stopped("a", "c", step=step)
        talk.running("a", "c")
        talk.come("b")
        (standing,) = talk.generation.standings
        assert (standing.losses, standing.step, standing.wait_steps) == (losses, step, wait_steps)
        for early in range(step + 1, step + wait_steps):
            talk.wait(100.0)
            assert not talk.progress(early)
        talk.progress(step + wait_steps)
        talk.wait(1.0)
        assert members(talk) == ["a", "b", "c"]
        join_all(talk, "a", "b", "c", step=step + wait_steps)


def test_nobody_waits_while_a_layer_has_a_single_copy() -> None:
    talk = training("a", "b")
    for step in (1, 3):
        flap(talk, "b", "a", step=step)
        talk.wait(0.5)
        assert members(talk) == ["a", "b"]
        join_all(talk, "a", "b", step=step + 1)
    talk.go("b")
    assert talk.generation.standings[0].wait_steps == 2


def test_the_wait_is_also_one_of_time_for_steps_may_be_short() -> None:
    talk = training("a", "b", "c")
    flap(talk, "b", "a", "c", step=1)
    talk.wait(1.0)
    join_all(talk, "a", "b", "c", step=2)
    flap(talk, "b", "a", "c", step=3)
    assert talk.generation.standings[0].wait_steps == 1

    assert not talk.progress(50)
    assert not talk.wait(0.9)
    assert kinds(talk.wait(0.1)) == [WriteGeneration]


def test_losses_are_forgiven_after_many_steps_and_much_time() -> None:
    for steps, seconds, forgiven in ((150, 700.0, True), (150, 1.0, False), (50, 700.0, False)):
        talk = training("a", "b", "c", job=replace(JOB, steps=1000))
        flap(talk, "b", "a", "c", step=1)
        talk.progress(steps)
        talk.wait(seconds)
        assert members(talk) == ["a", "b", "c"]
        assert (talk.generation.standings == ()) is forgiven


def test_a_node_lost_too_often_is_quarantined_until_it_is_pardoned() -> None:
    talk = training("a", "b", "c", job=replace(JOB, node_losses=1))
    flap(talk, "b", "a", "c", step=1)
    assert talk.generation.standings[0].quarantined
    talk.progress(60)
    assert not talk.wait(5000.0)

    assert kinds(talk.say(PardonChanged(NodeId("b"), True))) == [WriteGeneration]
    command = talk.commands[-1]
    assert isinstance(command, WriteGeneration)
    assert command.pardons == ("b",)
    assert command.record.standings == ()
    assert members(talk) == ["a", "b", "c"]


def test_a_quarantine_survives_the_leader_that_declared_it() -> None:
    old = training("a", "b", job=replace(JOB, node_losses=1))
    flap(old, "b", "a", step=1)
    new = Coordinator(JOB, now_s=0.0, generation=old.generation, start=old.start)
    for node in ("a", "b"):
        new.absorb(NodeChanged(NodeId(node), old.record(node)), 0.0)

    assert not [c for c in new.handle(TimePassed(), 0.0) if isinstance(c, WriteGeneration)]
    assert new.view.generation is not None
    assert new.view.generation.standings[0].quarantined


def test_a_node_in_quarantine_is_taken_when_the_job_cannot_go_on_without_it() -> None:
    talk = training("a", "b", job=replace(JOB, node_losses=1, nodes_min=2))
    talk.go("b")
    talk.stopped("a", step=1)
    talk.running("a")
    assert talk.start.action is Action.HOLD

    assert kinds(talk.come("b")) == [WriteGeneration]
    assert members(talk) == ["a", "b"]


def test_a_job_that_holds_says_why() -> None:
    talk = training("a", "b", job=replace(JOB, nodes_min=2))
    talk.go("b")
    talk.stopped("a", step=1)
    assert talk.start.reasons == ("nodes.min: 2 nodes are needed and 1 can train; waiting for more",)

    tight = training("a", "b", job=replace(JOB, memory_per_slot_bytes=200))
    tight.go("b")
    tight.stopped("a", step=1)
    assert tight.start.action is Action.HOLD
    assert "waiting for more nodes" in tight.start.reasons[0]


def test_joins_that_keep_coming_are_waited_for_longer_within_a_bound() -> None:
    talk = training("a")
    talk.come("b")
    assert talk.coordinator.wake_at_s == 0.2
    talk.now_s = 0.1
    talk.come("c")
    assert talk.coordinator.wake_at_s == 0.1 + 2 * 0.2
    for n in range(60):
        talk.now_s += 0.1
        if kinds(talk.come(f"n{n}")):
            break
    assert talk.now_s <= 20 * 0.2 + 0.1
    assert len(talk.generation.members) > 30


def test_what_happens_close_together_becomes_one_generation() -> None:
    """Whoever is told of several events before it decides lets the coordinator absorb all but the last."""
    talk = training("a", "b", "c", "d")
    lost = [NodeRefused(NodeId(node), "one") for node in "bcd"]
    for event in lost[:-1]:
        talk.coordinator.absorb(event, talk.now_s)
    said = talk.say(lost[-1])

    assert kinds(said) == [WriteGeneration, EvictNode, EvictNode, EvictNode]
    assert members(talk) == ["a"]


def test_joins_take_at_most_half_of_the_time() -> None:
    """A generation that was long in forming trains for as long before it ends for a newcomer."""
    talk = training("a", "b")
    talk.go("b")
    talk.now_s += 7.0
    talk.stopped("a", step=1)
    talk.running("a")
    talk.progress(2)
    talk.come("c")

    assert not talk.wait(6.9)
    assert kinds(talk.wait(0.1)) == [WriteGeneration]
    assert members(talk) == ["a", "c"]


# Drains.


def test_a_drain_that_was_honoured_is_forgotten_with_the_next_generation() -> None:
    talk = training("a", "b", "c")
    talk.drain("b")
    talk.stopped("a", "b", "c", step=2)
    talk.running("a", "b", "c")
    talk.miss("b")
    talk.go("c")

    command = [c for c in talk.commands if isinstance(c, WriteGeneration)][-1]
    assert [(drain.node, drain.released) for drain in command.drains] == [("b", True)]


def test_a_node_that_comes_to_leave_again_while_a_generation_forms_is_kept_until_it_runs() -> None:
    """It may hold what the members lack."""
    talk = training("a", "b")
    talk.go("b")
    talk.come("b")
    talk.drain("b")
    assert ReleaseDrain not in kinds(talk.commands)
    talk.stopped("a", step=1)

    assert ReleaseDrain in kinds(talk.running("a"))


# Stops at a boundary.


def test_contact_lost_during_a_stop_at_a_boundary_makes_it_an_abort() -> None:
    talk = training("a", "b")
    talk.drain("b", grace_s=1000.0)
    assert talk.generation.stop is StopMode.BOUNDARY
    talk.say(ContactLost(SuspectRecord(generation=2, node=NodeId("a"), detail="reset", stopping=True)))
    talk.answer("a", "b")

    assert kinds(talk.wait(JOB.probe_s)) == [WriteGeneration]
    assert (talk.generation.cause, talk.generation.stop) == (Cause.COMMUNICATION, StopMode.ABORT)


def test_contact_lost_during_a_stop_that_all_the_same_came_is_forgotten() -> None:
    talk = training("a", "b")
    talk.drain("b", grace_s=1000.0)
    suspect = ContactLost(SuspectRecord(generation=2, node=NodeId("a"), detail="reset", stopping=True))
    talk.say(suspect)
    talk.stopped("a", "b", step=2)
    talk.say(suspect)  # as a new leader sees it
    talk.running("a", "b")

    assert not [c for c in talk.wait(10.0) if isinstance(c, WriteGeneration)]


def test_a_job_pauses_when_a_node_that_stood_by_leaves_it_below_its_minimum() -> None:
    talk = training("a", "b", "c", job=replace(JOB, nodes_min=3, nodes_max=3, depth=1, blocks=2))
    assert talk.start.plan is not None
    (spare,) = {"a", "b", "c"} - talk.start.plan.nodes
    talk.go(spare)
    talk.stopped(*talk.start.plan.nodes, step=1)
    assert talk.start.action is Action.HOLD


def test_a_member_that_left_without_a_word_does_not_stop_the_others_for_ever() -> None:
    """Only the coordinator releases; a record that somebody else wrote must not confuse it."""
    talk = training("a", "b")
    talk.drain("b", grace_s=1000.0)
    talk.say(ContactLost(SuspectRecord(generation=2, node=NodeId("a"), detail="reset")))
    talk.answer("a", "b")
    talk.wait(JOB.probe_s)
    assert talk.generation.stop is StopMode.ABORT
    forged = DrainRecord(node=NodeId("b"), grace_s=1.0, reason="forged", released=True)
    talk.say(DrainChanged(NodeId("b"), forged))
    talk.miss("b")
    talk.stopped("a", step=1)

    talk.wait(JOB.abort_s + JOB.start_s)
    assert members(talk) == ["a"]
    assert talk.stopped("a", step=1)


def test_a_leader_that_stood_still_hears_of_a_release_it_did_not_order() -> None:
    """Found by the simulation (seed 3258): others led meanwhile, and let a member go. Its writes are refused."""
    talk = training("a", "b", "c")
    talk.go("c")
    talk.stopped("b", step=1)
    release = DrainRecord(node=NodeId("b"), grace_s=1.0, reason="by another leader", released=True)
    talk.say(DrainChanged(NodeId("b"), release))
    talk.miss("b")

    assert kinds(talk.stopped("a", step=1)) == [WriteStart]
    assert talk.start.plan is not None
    assert talk.start.plan.nodes == {"a"}

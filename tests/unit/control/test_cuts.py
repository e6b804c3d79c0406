"""The coordinator where the network is cut: one side goes on, or all wait."""

from dataclasses import replace

from harness.coordination import JOB, Talk, kinds, outcome, training
from holdfast.control.coordinator import Coordinator
from holdfast.model.commands import WriteGeneration, WriteStart
from holdfast.model.events import (
    ContactLost,
    NodeChanged,
)
from holdfast.model.ids import NodeId
from holdfast.model.records import AckPhase, Result, StopMode, SuspectRecord


def members(talk: Talk) -> list[str]:
    return [ref.slot.node for ref in talk.generation.members]


def join_all(talk: Talk, *nodes: str, step: int) -> None:
    talk.stopped(*nodes, step=step)
    talk.running(*nodes)
    talk.progress(step + 1)


def test_of_two_halves_the_larger_goes_on_and_the_other_stays_out_until_it_is_reached() -> None:
    talk = training("a", "b", "c", "d", "e")
    talk.say(ContactLost(SuspectRecord(generation=1, node=NodeId("c"), detail="reset")))
    for node in "cde":
        talk.unreachable(node, "a", "b")
    for node in "ab":
        talk.unreachable(node, "c", "d", "e")

    talk.wait(JOB.probe_s)
    assert (talk.generation.stop, members(talk)) == (StopMode.ABORT, ["c", "d", "e"])
    assert talk.generation.unreachable == ("a", "b")
    assert talk.generation.trouble == 0
    join_all(talk, "c", "d", "e", step=1)
    assert not talk.wait(100.0), "a and b live, but are out of reach"
    for node in "abcde":
        talk.unreachable(node)
    talk.wait(100.0)
    assert members(talk) == ["a", "b", "c", "d", "e"]


def test_one_that_says_it_cannot_reach_another_is_enough() -> None:
    """Asymmetric: b hears c, c does not hear b."""
    talk = training("a", "b", "c")
    talk.say(ContactLost(SuspectRecord(generation=1, node=NodeId("a"), detail="waits")))
    talk.unreachable("c", "b")
    talk.wait(JOB.probe_s)

    assert members(talk) == ["a", "b"]
    assert "b and c cannot reach each other" in talk.generation.reason


def test_a_half_that_could_not_train_is_not_chosen_though_it_is_larger() -> None:
    talk = training("a", "b", "c", "d", "e", job=replace(JOB, nodes_max=2))
    assert talk.start.plan is not None
    assert talk.start.plan.nodes == {"a", "b"}
    talk.drain("b")  # a generation forms, in which all members are needed
    for node in "cde":
        talk.unreachable(node, "a", "b")
    talk.wait(JOB.probe_s)

    assert members(talk) == ["a", "b"]
    assert kinds(talk.stopped("a", "b", step=1)) == [WriteStart]


def torn() -> Talk:
    """Each of three nodes holds what nobody else does, and one of them is cut off."""
    talk = training("a", "b", "c", job=replace(JOB, depth=3, blocks=1, block_size=4))
    plan = talk.start.plan
    assert plan is not None
    assert len(plan.pipelines) == 1
    talk.unreachable("c", "a", "b")
    talk.wait(JOB.probe_s)
    return talk


def test_a_cut_after_which_no_part_can_train_is_waited_for() -> None:
    """No copy is lost: they live, and cannot reach each other."""
    talk = torn()
    plan = talk.start.plan
    assert plan is not None
    assert members(talk) == ["a", "b"]
    for node in "ab":
        (stage,) = [stage for stage in plan.stages if stage.slot.node == node]
        talk.ack(node, AckPhase.STOPPED, 1, tuple(stage.layers))
    assert not talk.wait(10_000.0)

    assert kinds(talk.unreachable("c")) == [WriteGeneration]
    assert members(talk) == ["a", "b", "c"]
    for stage in plan.stages:
        said = talk.ack(stage.slot.node, AckPhase.STOPPED, 1, tuple(stage.layers))
    assert kinds(said) == [WriteStart]
    assert talk.start.version.step == 1


def test_a_job_fails_when_who_was_cut_off_with_the_last_copy_is_gone() -> None:
    talk = torn()
    plan = talk.start.plan
    assert plan is not None
    for node in "ab":
        (stage,) = [stage for stage in plan.stages if stage.slot.node == node]
        talk.ack(node, AckPhase.STOPPED, 1, tuple(stage.layers))
    talk.wait(1000.0)
    talk.go("c")

    assert outcome(talk.wait(JOB.start_settle_s)).record.result is Result.FAILED


def test_a_leader_that_has_seen_no_start_tries_each_half_once_and_then_waits() -> None:
    """Found by real processes: it forgot what a half had said with the generation of that half, and began one for the
    other, for ever."""
    job = replace(JOB, nodes_desired=4, depth=2, blocks=2, block_size=2)
    old = training("a", "b", "c", "d", job=job)
    plan = old.start.plan
    assert plan is not None
    layers_of = {stage.slot.node: tuple(stage.layers) for stage in plan.stages}
    first, last = ([str(p.stages[at].slot.node) for p in plan.pipelines] for at in (0, 1))
    for node in first:
        old.unreachable(node, *last)
    old.wait(JOB.probe_s)
    new = Talk(job)
    new.coordinator = Coordinator(job, now_s=0.0, generation=old.generation)
    new.commands = list(old.commands)
    for node in "abcd":
        new.coordinator.absorb(NodeChanged(NodeId(node), old.record(node)), 0.0)
    for node in first:
        new.unreachable(node, *last)
    begun = new.progress(1)
    for _ in range(10):
        for node in members(new):
            begun += new.ack(node, AckPhase.STOPPED, 1, layers_of[NodeId(node)])

    assert kinds(begun) == [WriteGeneration]
    assert not new.wait(10_000.0)
    for node in first:
        new.unreachable(node)
    assert len(members(new)) >= 3, "one more is enough"
    for node in members(new):
        begun = new.ack(node, AckPhase.STOPPED, 1, layers_of[NodeId(node)])
    assert WriteStart in kinds(begun)


def test_what_is_said_of_a_cut_may_go_on_changing_and_is_acted_upon() -> None:
    talk = training("a", "b", "c")
    for turn in range(20):
        talk.now_s += 0.4 * JOB.probe_s
        if talk.unreachable("c", "ab"[turn % 2]):
            break

    assert talk.now_s <= 4 * JOB.probe_s
    assert len(members(talk)) == 2


def test_steps_that_go_on_refute_what_was_said_of_a_cut() -> None:
    talk = training("a", "b")
    talk.unreachable("a", "b")
    talk.now_s += 0.1
    talk.progress(2)

    assert not talk.wait(100.0)


def test_a_node_that_is_out_of_reach_does_not_disturb_those_that_train() -> None:
    talk = training("a", "b")
    talk.come("c")
    talk.unreachable("a", "c")

    assert not talk.wait(100.0)

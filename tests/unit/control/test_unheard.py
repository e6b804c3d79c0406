"""A job does not end for want of a copy while one may be on a node that nobody knows to be dead."""

from dataclasses import replace

from harness.coordination import JOB, Talk, kinds, outcome, training
from holdfast.control.coordinator import Coordinator
from holdfast.control.fencing import patience_s
from holdfast.model.commands import EvictNode, WriteGeneration, WriteOutcome, WriteStart
from holdfast.model.events import NodeChanged, NodeRefused, TimePassed
from holdfast.model.ids import NodeId
from holdfast.model.records import AckPhase, Result

PATIENCE_S = patience_s(JOB.orphan_s)
DEEP = replace(JOB, depth=3, blocks=1, block_size=4)


def layers_of(talk: Talk, node: str) -> tuple[int, ...]:
    plan = talk.start.plan
    assert plan is not None
    return tuple(layer for stage in plan.stages if stage.slot.node == node for layer in stage.layers)


def without(talk: Talk, *rest: str, step: int = 1) -> None:
    """The rest has stopped, each with what only it holds."""
    layers = {node: layers_of(talk, node) for node in rest}
    for node in rest:
        talk.ack(node, AckPhase.STOPPED, step, layers[node])


def test_a_last_copy_on_a_silent_node_is_waited_for_as_long_as_it_may_train() -> None:
    talk = training("a", "b", "c", job=DEEP)
    talk.miss("c")
    talk.silent("c")
    without(talk, "a", "b")

    assert talk.generation.unheard == ("c",)
    assert not talk.wait(PATIENCE_S - 1.0)
    assert outcome(talk.wait(1.0)).record.result is Result.FAILED


def test_it_saves_the_job_when_it_comes_back() -> None:
    talk = training("a", "b", "c", job=DEEP)
    talk.miss("c")
    talk.silent("c")
    without(talk, "a", "b")
    talk.wait(300.0)

    assert kinds(talk.come("c")) == [WriteGeneration]
    assert not talk.generation.unheard
    layers = {node: layers_of(talk, node) for node in "abc"}
    said = [command for node in "abc" for command in talk.ack(node, AckPhase.STOPPED, 1, layers[node])]
    assert WriteStart in kinds(said)
    assert talk.start.version.step == 1


def test_the_end_comes_at_once_where_every_missing_copy_is_known_to_be_dead() -> None:
    refused = training("a", "b", "c", job=DEEP)
    refused.go("c")
    without(refused, "a", "b")
    assert outcome(refused.wait(JOB.start_settle_s)).record.result is Result.FAILED

    died = training("a", "b", "c", job=DEEP)
    died.worker_dies("c")
    without(died, "a", "b")
    died.stopped("c")
    assert outcome(died.wait(JOB.start_settle_s)).record.result is Result.FAILED


def test_a_silent_node_that_turns_out_to_be_dead_is_waited_for_no_longer() -> None:
    for late in ("refused", "comes back empty"):
        talk = training("a", "b", "c", job=DEEP)
        talk.miss("c")
        talk.silent("c")
        without(talk, "a", "b")
        assert not talk.wait(300.0)
        if late == "refused":
            talk.say(NodeRefused(NodeId("c"), "one"))
            talk.wait(0.1)
        else:
            talk.worker_dies("c")
            without(talk, "a", "b")
            talk.stopped("c")
            talk.wait(JOB.start_settle_s)
        assert isinstance(talk.commands[-1], WriteOutcome), late


def test_a_silent_node_that_holds_nothing_of_what_is_missed_is_not_waited_for() -> None:
    talk = training("a", "b", "c", job=DEEP)
    talk.come("s")
    talk.wait(1.0)
    assert "s" in {ref.slot.node for ref in talk.generation.members}
    talk.miss("s")
    talk.silent("s")
    talk.go("c")
    without(talk, "a", "b")

    assert not talk.coordinator.view.unheard.nodes
    assert outcome(talk.wait(JOB.start_settle_s)).record.result is Result.FAILED


def test_what_a_silent_node_holds_is_of_no_use_after_a_step_without_it() -> None:
    talk = training("a", "b", "c")
    talk.miss("c")
    talk.silent("c")
    talk.stopped("a", "b", step=1)
    talk.running("a", "b")
    assert talk.coordinator.view.unheard.nodes == ("c",)

    talk.progress(2)
    assert not talk.coordinator.view.unheard.nodes


def test_a_new_leader_knows_who_fell_silent() -> None:
    old = training("a", "b", "c", job=DEEP)
    old.miss("c")
    old.silent("c")
    new = Talk(DEEP)
    new.commands = list(old.commands)
    new.coordinator = Coordinator(DEEP, now_s=0.0, generation=old.generation)
    for node in "ab":
        new.coordinator.absorb(NodeChanged(NodeId(node), old.record(node)), 0.0)
    new.say(TimePassed())
    new.progress(1)
    without(new, "a", "b")

    assert not new.wait(PATIENCE_S - 1.0)
    assert outcome(new.wait(1.0)).record.result is Result.FAILED


def test_one_that_is_cut_off_is_waited_for_also_when_its_lease_ends() -> None:
    talk = training("a", "b", "c", job=DEEP)
    talk.unreachable("c", "a", "b")
    talk.wait(JOB.probe_s)
    without(talk, "a", "b")
    talk.miss("c")

    assert not talk.wait(PATIENCE_S - 1.0)
    assert outcome(talk.wait(1.0)).record.result is Result.FAILED


def test_a_silent_node_that_holds_other_layers_is_not_waited_for() -> None:
    talk = training("a", "b", "c", job=DEEP)
    kept = (*layers_of(talk, "a"), *layers_of(talk, "c"))
    talk.miss("c")
    talk.silent("c")
    talk.go("b")
    talk.ack("a", AckPhase.STOPPED, 1, kept)

    assert talk.coordinator.view.unheard.nodes == ("c",)
    assert outcome(talk.wait(JOB.start_settle_s)).record.result is Result.FAILED


def test_one_that_lives_and_was_given_up_is_waited_for() -> None:
    """It cannot reach the store; or it did not stop in time, and was evicted."""
    away = training("a", "b", "c", job=DEEP)
    away.miss("c")
    away.answer("c")
    away.wait(JOB.absent_s)
    without(away, "a", "b")

    hung = training("a", "b", "c", job=DEEP)
    hung.break_contact()
    hung.answer("a", "b", "c")
    hung.wait(JOB.probe_s)
    without(hung, "a", "b")
    assert EvictNode in kinds(hung.wait(JOB.abort_s + JOB.start_s))
    without(hung, "a", "b")

    for talk in (away, hung):
        assert [ref.slot.node for ref in talk.generation.members] == ["a", "b"]
        assert not talk.wait(PATIENCE_S - 1.0)
        assert outcome(talk.wait(1.0)).record.result is Result.FAILED


def test_a_new_leader_waits_for_one_that_was_cut_off_and_has_no_key() -> None:
    old = training("a", "b", "c", job=DEEP)
    old.unreachable("c", "a", "b")
    old.wait(JOB.probe_s)
    assert old.generation.unreachable == ("c",)
    new = Talk(DEEP)
    new.commands = list(old.commands)
    new.coordinator = Coordinator(DEEP, now_s=0.0, generation=old.generation)
    for node in "ab":
        new.coordinator.absorb(NodeChanged(NodeId(node), old.record(node)), 0.0)
    new.progress(1)
    without(new, "a", "b")

    assert not new.wait(PATIENCE_S - 1.0)
    assert outcome(new.wait(1.0)).record.result is Result.FAILED


def test_a_node_that_was_to_leave_and_is_gone_too_soon_is_waited_for() -> None:
    for after_s, waits in ((1.0, True), (29.0, False)):
        talk = training("a", "b", "c", job=DEEP)
        talk.drain("c", grace_s=30.0)
        talk.now_s += after_s
        talk.miss("c")
        without(talk, "a", "b")

        assert (talk.coordinator.view.unheard.nodes == ("c",)) is waits
        talk.wait(JOB.start_settle_s)
        assert isinstance(talk.commands[-1], WriteOutcome) is not waits

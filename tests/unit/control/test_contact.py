"""What follows from lost contact: nobody waits for ever, and a network that is down for a while ends no job."""

from dataclasses import replace

from harness.coordination import JOB, Talk, kinds, outcome, training
from holdfast.model.commands import ProbeNode, ReleaseDrain, WriteGeneration, WriteOutcome
from holdfast.model.events import ProgressMade
from holdfast.model.records import AckPhase, Action, Cause, Commit, ProgressRecord, StopMode


def members(talk: Talk) -> list[str]:
    return [ref.slot.node for ref in talk.generation.members]


def test_a_cut_is_dealt_with_though_a_step_is_told_of_late() -> None:
    for step in (1, 2):
        talk = training("a", "b")
        talk.break_contact()
        talk.unreachable("a", "b")
        talk.now_s += 0.1
        talk.progress(step)

        talk.wait(JOB.probe_s)
        assert (talk.generation.cause, members(talk)) == (Cause.COMMUNICATION, ["a"]), step


def test_a_cut_that_steps_refuted_is_dealt_with_once_workers_break_too() -> None:
    talk = training("a", "b")
    talk.unreachable("a", "b")
    for step in range(2, 100):
        talk.now_s += 1.0
        assert not talk.progress(step)

    assert kinds(talk.break_contact()) == [ProbeNode, ProbeNode]
    talk.answer("a", "b")
    assert not talk.wait(JOB.probe_s / 2), "a loss may be why, and is known in a moment"
    assert kinds(talk.wait(JOB.probe_s / 2)) == [WriteGeneration]
    assert members(talk) == ["a"]


def test_a_step_that_is_told_of_again_refutes_nothing() -> None:
    talk = training("a", "b")
    talk.unreachable("a", "b")
    talk.now_s += 0.1
    talk.progress(1)

    assert kinds(talk.wait(JOB.probe_s)) == [WriteGeneration]


def test_a_step_of_an_older_generation_refutes_nothing() -> None:
    talk = training("a", "b", "c")
    talk.go("c")
    talk.stopped("a", "b", step=1)
    talk.running("a", "b")
    talk.unreachable("a", "b")
    talk.now_s += 0.1
    commit = Commit(step=2, loss=0.5, grad_norm=None, time_s=0.0)
    talk.say(ProgressMade(ProgressRecord(generation=1, commits=(commit,))))

    assert kinds(talk.wait(JOB.probe_s)) == [WriteGeneration]


def holding(grace_s: float) -> Talk:
    """Below the minimum; what b holds is on its way to a, and b has to leave."""
    talk = training("a", "b", job=replace(JOB, nodes_min=2))
    talk.drain("b", grace_s=grace_s)
    talk.ack("a", AckPhase.STOPPED, 2, layers=(0,))
    talk.ack("b", AckPhase.STOPPED, 2, layers=(1, 2))
    assert talk.start.action is Action.HOLD
    assert talk.start.transfers
    return talk


def test_layers_that_are_brought_to_safety_are_sent_again_as_soon_as_contact_breaks() -> None:
    talk = holding(grace_s=30.0)
    talk.break_contact()
    talk.answer("a", "b")
    assert WriteGeneration in kinds(talk.wait(JOB.probe_s))

    talk.ack("a", AckPhase.STOPPED, 2, layers=(0,))
    talk.ack("b", AckPhase.STOPPED, 2, layers=(1, 2))
    assert ReleaseDrain in kinds(talk.running("a", "b"))


def test_a_hold_that_runs_needs_no_contact() -> None:
    talk = holding(grace_s=30.0)
    talk.running("a", "b")
    talk.break_contact()
    talk.answer("a", "b")

    assert not talk.wait(100.0)


def test_a_start_that_stalls_is_tried_again_before_a_member_must_leave() -> None:
    talk = holding(grace_s=20.0)

    assert not talk.wait(14.9)
    assert kinds(talk.wait(0.1)) == [WriteGeneration]
    assert (talk.generation.cause, talk.generation.stop) == (Cause.STALLED, StopMode.ABORT)
    assert talk.generation.reason == "no start within 15 s"


def test_starts_before_a_deadline_are_given_time_to_run() -> None:
    """A deadline that is very near, or over, does not end one generation after the other."""
    for grace_s in (0.1, 4.0):
        talk = holding(grace_s=grace_s)
        assert not talk.wait(JOB.abort_s - 0.1)
        assert kinds(talk.wait(0.1)) == [WriteGeneration]
    talk = holding(grace_s=1000.0)
    assert not talk.wait(JOB.start_s - 0.1)
    assert kinds(talk.wait(0.1)) == [WriteGeneration]


def test_breaks_at_one_step_are_tried_again_after_ever_longer_pauses() -> None:
    talk = training("a", "b")
    pauses = []
    while True:
        talk.break_contact()
        talk.answer("a", "b")
        waited_s = 0.0
        while not (said := [c for c in talk.wait(0.25) if isinstance(c, WriteGeneration | WriteOutcome)]):
            waited_s += 0.25
        pauses.append(waited_s + 0.25 - JOB.probe_s)
        if kinds(said) == [WriteOutcome]:
            break
        talk.stopped("a", "b", step=1)
        talk.running("a", "b")

    assert pauses == [0.0, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 16.0, 16.0]
    assert "10 times in a row" in outcome(said).record.reason


def test_a_loss_is_acted_upon_at_once_in_a_pause() -> None:
    talk = training("a", "b", "c")
    for _ in range(6):
        talk.break_contact()
        talk.answer("a", "b", "c")
        talk.wait(20.0)
        talk.stopped("a", "b", "c", step=1)
    talk.break_contact()

    assert kinds(talk.go("c"))[0] is WriteGeneration
    assert members(talk) == ["a", "b"]


def test_a_node_that_stands_by_and_leaves_does_not_end_a_stop_at_a_boundary() -> None:
    talk = training("a", "b", "c")
    talk.drain("b", grace_s=1000.0)
    assert talk.generation.stop is StopMode.BOUNDARY
    talk.come("d")
    talk.drain("d", grace_s=1.0)

    assert not talk.wait(400.0)
    assert kinds(talk.wait(100.0)) == [WriteGeneration]
    assert "b must leave now" in talk.generation.reason

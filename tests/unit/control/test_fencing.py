"""The coordinator where nobody can be asked: no generation starts before the last one is over."""

from dataclasses import replace

from harness.coordination import JOB, Talk, kinds, outcome, training
from holdfast.control.fencing import patience_s
from holdfast.model.commands import WriteGeneration, WriteStart
from holdfast.model.records import Result


def members(talk: Talk) -> list[str]:
    return [ref.slot.node for ref in talk.generation.members]


def silence(talk: Talk, *nodes: str) -> None:
    talk.miss(*nodes)
    talk.silent(*nodes)


def stranded() -> Talk:
    """All that trained are out of sight, but one that stood by."""
    return training("a", "b", "s", job=replace(JOB, nodes_max=2))


def test_a_generation_starts_only_when_the_last_one_can_commit_nothing_more() -> None:
    """The silent may be training still, until they know themselves that they may not."""
    talk = stranded()
    silence(talk, "a", "b")
    talk.stopped("s", step=None)

    assert talk.generation.voters == ("a/0#1", "b/0#1")
    assert not talk.wait(patience_s(JOB.orphan_s) - 0.1)
    assert patience_s(JOB.orphan_s) > 1.1 * JOB.orphan_s, "clocks run at different rates"
    assert not talk.wait(0.1), "what they held may come back with them"
    assert outcome(talk.wait(JOB.start_settle_s)).record.result is Result.FAILED


def test_one_voter_that_is_known_to_have_stopped_is_enough() -> None:
    """Without it no step of theirs is voted for."""
    parked = training("a", "b", "c")
    silence(parked, "a", "b")
    assert kinds(parked.stopped("c", step=1)) == [WriteStart]

    refused = stranded()
    silence(refused, "b")
    refused.go("a")
    assert kinds(refused.stopped("s", step=1)) == [WriteStart], "it need not wait for orphans"

    died = stranded()
    died.worker_dies("a")
    silence(died, "b", "a")
    assert kinds(died.stopped("s", step=1)) == [WriteStart]


def test_a_voter_that_comes_back_is_taken_in_and_its_word_is_enough() -> None:
    talk = stranded()
    silence(talk, "a", "b")
    talk.stopped("s", step=None)
    talk.wait(60.0)
    assert kinds(talk.come("a")) == [WriteGeneration]
    assert members(talk) == ["a", "s"]

    assert kinds(talk.stopped("a", "s", step=1))[:1] == [WriteStart]


def test_who_was_seen_again_is_waited_for_anew() -> None:
    """Whoever had contact to the store in between may vote for as long again."""
    talk = stranded()
    silence(talk, "a", "b")
    talk.stopped("s", step=None)
    assert not talk.wait(JOB.orphan_s)
    talk.come("a")
    silence(talk, "a")
    talk.stopped("s", step=None)

    assert not talk.wait(JOB.orphan_s)
    assert not talk.wait(patience_s(JOB.orphan_s) - JOB.orphan_s)
    assert outcome(talk.wait(JOB.start_settle_s)).record.result is Result.FAILED


def test_voters_that_are_out_of_reach_and_live_are_waited_for() -> None:
    talk = training("a", "b", "s", "t", "u", "v", job=replace(JOB, nodes_max=2, depth=2, blocks=1, block_size=4))
    assert talk.start.plan is not None
    assert talk.start.plan.nodes == {"a", "b"}
    talk.drain("a")
    for node in "ab":
        talk.unreachable(node, "s", "t", "u", "v")
    talk.go("b")
    assert members(talk) == ["s", "t", "u", "v"], "nobody can train, and these are the most"
    talk.stopped("s", "t", "u", "v", step=None)

    assert not talk.wait(10_000.0)
    talk.unreachable("a")
    assert "a" in members(talk)


def test_what_was_known_of_the_voters_is_not_asked_for_again() -> None:
    talk = training("a", "b", "c")
    talk.go("a")
    talk.stopped("b", step=1)
    silence(talk, "b")

    assert talk.generation.number == 3
    assert talk.generation.voters == ()
    assert kinds(talk.stopped("c", step=1)) == [WriteStart]

"""What an answer, or none, says of a node: no more than it can."""

from harness.coordination import Talk, kinds, training
from holdfast.model.commands import ProbeNode, WriteGeneration
from holdfast.model.events import ProbeAnswered
from holdfast.model.ids import NodeId


def absent() -> Talk:
    talk = training("a", "b")
    talk.miss("b")
    return talk


def test_an_answer_strikes_out_only_workers_that_were_asked_about() -> None:
    """A worker got ready after the answer was given, and its node's record was quicker."""
    talk = training("a", "b")
    asked = talk.ref("b").worker
    talk.worker_dies("b")
    again = talk.ref("b").worker
    talk.say(ProbeAnswered(NodeId("b"), "one", (), asked=(asked,)))

    assert again in {ref.worker for ref in talk.coordinator.view.live}
    talk.say(ProbeAnswered(NodeId("b"), "one", (), asked=(again,)))
    assert again not in {ref.worker for ref in talk.coordinator.view.live}


def test_one_answer_that_is_missed_is_no_silence() -> None:
    talk = absent()
    silent = ProbeAnswered(NodeId("b"), "one", None)

    assert not talk.say(silent, silent), "it may be told of twice"
    assert kinds(talk.wait(1.0)) == [ProbeNode]
    assert not talk.answer("b")
    assert not talk.say(silent)
    assert kinds(talk.wait(1.0)) == [ProbeNode]
    assert kinds(talk.say(silent)) == [WriteGeneration]

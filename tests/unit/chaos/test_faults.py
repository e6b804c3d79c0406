"""Fault sentences: each is read as it is meant, and a wrong one is refused by word and remedy."""

import pytest

from holdfast.chaos.faults import (
    After,
    AtStep,
    DrainNode,
    Fault,
    JoinNode,
    SignalAgent,
    SignalNode,
    SignalWorker,
    check_faults,
    parse_fault,
)
from holdfast.errors import FaultSyntaxError
from holdfast.model.ids import NodeId, SlotId

NODE_0, NODE_1, NODE_2, NODE_3 = (NodeId(f"node-{number}") for number in range(4))


@pytest.mark.parametrize(
    ("sentence", "action", "when"),
    [
        ("kill node-2 at step 12", SignalNode("kill", NODE_2), AtStep(12)),
        ("stop node-1 at step 20", SignalNode("stop", NODE_1), AtStep(20)),
        ("resume node-1 at step 30", SignalNode("resume", NODE_1), AtStep(30)),
        ("terminate node-1 at step 4", SignalNode("terminate", NODE_1), AtStep(4)),
        ("kill agent node-1 at step 9", SignalAgent("kill", NODE_1), AtStep(9)),
        ("kill worker node-0/0 after 3.5s", SignalWorker("kill", SlotId(NODE_0, 0)), After(3.5)),
        ("stop worker node-0/1 at step 3", SignalWorker("stop", SlotId(NODE_0, 1)), AtStep(3)),
        ("drain node-3 at step 25", DrainNode(NODE_3, None), AtStep(25)),
        ("drain node-3 within 5s at step 25", DrainNode(NODE_3, 5.0), AtStep(25)),
        ("drain node-3 at step 25 within 500ms", DrainNode(NODE_3, 0.5), AtStep(25)),
        ("drain node-3 within 2 after 1min", DrainNode(NODE_3, 2.0), After(60.0)),
        ("join at step 30", JoinNode(), AtStep(30)),
        ("  join   after .5s ", JoinNode(), After(0.5)),
    ],
)
def test_a_sentence_is_read_as_it_is_meant(sentence: str, action: object, when: object) -> None:
    fault = parse_fault(sentence)

    assert (fault.action, fault.when, fault.sentence) == (action, when, sentence.strip())


@pytest.mark.parametrize(
    ("sentence", "complaint"),
    [
        ("", "stumbled over its end, where kill or stop"),
        ("kil node-2 at step 12", "stumbled over 'kil' (word 1)"),
        ("kil node-2 at step 12", "did you mean 'kill'?"),
        ("kill at step 12", "stumbled over 'at' (word 2), where NODE, agent NODE or worker NODE/SLOT should be"),
        ("kill 2 at step 12", "stumbled over '2'"),
        ("kill node-02 at step 12", "stumbled over 'node-02'"),
        ("kill node-2/0 at step 12", "stumbled over 'node-2/0'"),
        ("kill worker node-2 at step 12", "where a worker's slot, such as node-0/0 should be"),
        ("kill node-2", "stumbled over its end, where at or after should be"),
        ("kill node-2 att step 12", "did you mean 'at'?"),
        ("kill node-2 at stpe 12", "did you mean 'step'?"),
        ("kill node-2 at step twelve", "stumbled over 'twelve' (word 5), where a step"),
        ("kill node-2 at step 0", "for the very start write `after 0s`"),
        ("kill node-2 at step -1", "stumbled over '-1'"),
        ("kill node-2 after 3h", "where a number of seconds, such as 3.5s should be"),
        ("kill node-2 after -3s", "stumbled over '-3s'"),
        ("kill node-2 after nan", "stumbled over 'nan'"),
        ("kill node-2 at step 12 please", "stumbled over 'please' (word 6), where nothing more should be"),
        ("kill node-2 within 5s at step 3", "stumbled over 'within'"),
        ("join node-4 at step 3", "stumbled over 'node-4' (word 2)"),
        ("drain worker node-1/0 at step 3", "stumbled over 'worker'"),
        ("drain node-1 within soon at step 3", "stumbled over 'soon'"),
    ],
)
def test_a_wrong_sentence_is_refused_with_the_word_and_the_grammar(sentence: str, complaint: str) -> None:
    with pytest.raises(FaultSyntaxError) as caught:
        parse_fault(sentence)

    message = str(caught.value)
    assert complaint in message
    assert repr(sentence) in message
    assert "at step N, or after SECONDS" in message


def faults(*sentences: str) -> list[Fault]:
    return [parse_fault(sentence) for sentence in sentences]


@pytest.mark.parametrize(
    ("sentences", "complaint"),
    [
        (["kill node-2 at step 3"], "there never will be node-2: the nodes are node-0 to node-1"),
        (["join at step 1", "kill node-3 at step 3"], "the nodes are node-0 to node-2"),
        (["join at step 5", "kill node-2 at step 3"], "it joins at step 5, later than this"),
        (["kill worker node-1/2 at step 3"], "slots of a node are numbered 0 to 1"),
        (["kill node-1 at step 11"], "there never will be step 11: the job ends after step 10"),
    ],
)
def test_what_can_never_happen_is_refused_before_the_start(sentences: list[str], complaint: str) -> None:
    with pytest.raises(FaultSyntaxError) as caught:
        check_faults(faults(*sentences), nodes=2, slots=2, steps=10)

    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    "sentences",
    [
        ["kill node-1 at step 10"],
        ["kill node-2 at step 3", "join at step 3"],
        ["kill node-2 after 1s", "join at step 5"],
        ["kill node-2 at step 3", "join after 1s"],
        ["kill worker node-1/1 at step 1", "kill worker node-1/1 at step 1"],
    ],
)
def test_what_may_happen_is_accepted(sentences: list[str]) -> None:
    check_faults(faults(*sentences), nodes=2, slots=2, steps=10)

"""Faults that read like sentences, such as `kill node-2 at step 12`. Pure: text in, values out.

fault   = action (at step N | after SECONDS)
action  = (kill | stop | resume | terminate) NODE | the same with `agent NODE` or `worker NODE/SLOT`
        | drain NODE [within SECONDS], before or after the time
        | join
"""

import difflib
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.errors import FaultSyntaxError
from holdfast.model.ids import NodeId, SlotId

GRAMMAR = """\
a fault is an action and a time:
  kill | stop | resume | terminate  NODE, agent NODE or worker NODE/SLOT
  drain NODE [within SECONDS]
  join
  ... at step N, or after SECONDS (from the start of the nodes)
such as: kill node-2 at step 12; drain node-3 within 5s at step 25; kill worker node-0/0 after 3.5s; join at step 30"""

# What each verb sends: to all processes of a node, to an agent alone, or to a worker.
SIGNALS = {
    "kill": signal.SIGKILL,
    "stop": signal.SIGSTOP,
    "resume": signal.SIGCONT,
    "terminate": signal.SIGTERM,
}
_VERBS = (*SIGNALS, "drain", "join")
_NODE = re.compile(r"node-(0|[1-9]\d{0,5})")
_SLOT = re.compile(r"(node-\d+)/(\d{1,4})")
_STEP = re.compile(r"\d{1,12}")
_SECONDS = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|s|min)?")
_UNITS_S = {"ms": 1e-3, "s": 1.0, "min": 60.0, None: 1.0}


@dataclass(frozen=True, slots=True)
class AtStep:
    """As soon as this many steps are seen committed."""

    step: int


@dataclass(frozen=True, slots=True)
class After:
    """So long after the nodes were started."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class SignalNode:
    """To every process of a node at once; `terminate` to its agent alone, as a notice that its time has come."""

    verb: str
    node: NodeId


@dataclass(frozen=True, slots=True)
class SignalAgent:
    verb: str
    node: NodeId


@dataclass(frozen=True, slots=True)
class SignalWorker:
    verb: str
    slot: SlotId


@dataclass(frozen=True, slots=True)
class DrainNode:
    """`grace_s` None: what the job's spec says."""

    node: NodeId
    grace_s: float | None


@dataclass(frozen=True, slots=True)
class JoinNode:
    """A new node, with the next free number."""


Action = SignalNode | SignalAgent | SignalWorker | DrainNode | JoinNode


@dataclass(frozen=True, slots=True)
class Fault:
    """One sentence, as it was written and as it was read."""

    sentence: str
    action: Action
    when: AtStep | After

    @property
    def node(self) -> NodeId | None:
        """The node it names; a join names none."""
        match self.action:
            case JoinNode():
                return None
            case SignalWorker(slot=slot):
                return slot.node
            case SignalNode(node=node) | SignalAgent(node=node) | DrainNode(node=node):
                return node


def parse_fault(sentence: str) -> Fault:
    """Raises: FaultSyntaxError: names the sentence, the word it stumbled over and the grammar."""
    return _Words(sentence).fault()


def check_faults(faults: Sequence[Fault], *, nodes: int, slots: int, steps: int) -> None:
    """Refuse what can never happen in a job of `steps` steps that starts with `nodes` nodes of `slots` slots.

    Raises:
        FaultSyntaxError: a node, slot or step that there never will be, or not yet at that step.
    """
    joins = [fault.when for fault in faults if isinstance(fault.action, JoinNode)]
    for fault in faults:
        if isinstance(fault.when, AtStep) and fault.when.step > steps:
            raise _refused(fault.sentence, f"step {fault.when.step}", f"the job ends after step {steps}")
        if fault.node is None:
            continue
        number = node_number(fault.node)
        if number >= nodes + len(joins):
            known = f"the nodes are {node_name(0)} to {node_name(nodes + len(joins) - 1)}"
            raise _refused(fault.sentence, fault.node, known if nodes + len(joins) > 1 else f"there is {node_name(0)}")
        _check_joined(fault, number - nodes, joins)
        if isinstance(fault.action, SignalWorker) and fault.action.slot.index >= slots:
            there = f"slots of a node are numbered 0 to {slots - 1}" if slots > 1 else "a node has one slot, 0"
            raise _refused(fault.sentence, str(fault.action.slot), there)


def parse_seconds(text: str) -> float:
    """`3.5s`, `3.5`, `500ms` or `1min` in seconds.

    Raises:
        FaultSyntaxError: anything else.
    """
    match = _SECONDS.fullmatch(text)
    if match is None:
        raise FaultSyntaxError(f"{text!r} given; should be a number of seconds, such as 3.5s")
    return float(match[1]) * _UNITS_S[match[2]]


def node_name(number: int) -> NodeId:
    """Nodes that the launcher starts are numbered from 0 in order."""
    return NodeId(f"node-{number}")


def node_number(node: NodeId) -> int:
    """Inverse of `node_name`."""
    return int(node.removeprefix("node-"))


def _check_joined(fault: Fault, join: int, joins: Sequence[AtStep | After]) -> None:
    """Where all times are steps, it is known which join brings the node; `join` is negative for one of the first."""
    if join < 0 or not isinstance(fault.when, AtStep):
        return
    steps = sorted(when.step for when in joins if isinstance(when, AtStep))
    if len(steps) == len(joins) and steps[join] > fault.when.step:
        raise _refused(fault.sentence, str(fault.node), f"it joins at step {steps[join]}, later than this")


class _Words:
    """The words of one sentence, read from left to right."""

    def __init__(self, sentence: str) -> None:
        self._sentence = sentence.strip()
        self._words = self._sentence.split()
        self._next = 0

    def fault(self) -> Fault:
        verb = self._one_of(_VERBS)
        grace_s = None
        action: Action
        if verb == "join":
            action = JoinNode()
        elif verb == "drain":
            node = self._node()
            grace_s = self._within()
            action = DrainNode(node, grace_s)
        else:
            action = self._signal(verb)
        when = self._when()
        if isinstance(action, DrainNode) and grace_s is None:
            action = DrainNode(action.node, self._within())
        if self._next < len(self._words):
            raise self._stumble("nothing more")
        return Fault(self._sentence, action, when)

    def _signal(self, verb: str) -> Action:
        match self._peek():
            case "worker":
                self._next += 1
                return SignalWorker(verb, self._slot())
            case "agent":
                self._next += 1
                return SignalAgent(verb, self._node())
            case _:
                return SignalNode(verb, self._node("NODE, agent NODE or worker NODE/SLOT"))

    def _when(self) -> AtStep | After:
        if self._one_of(("at", "after")) == "after":
            return After(self._seconds())
        self._one_of(("step",))
        step = int(self._matching(_STEP, "a step, a whole number from 1").group())
        if step < 1:
            self._next -= 1
            raise self._stumble("a step from 1; for the very start write `after 0s`")
        return AtStep(step)

    def _within(self) -> float | None:
        if self._peek() != "within":
            return None
        self._next += 1
        return self._seconds()

    def _node(self, expected: str = "a node, such as node-2") -> NodeId:
        return NodeId(self._matching(_NODE, expected).group())

    def _slot(self) -> SlotId:
        match = self._matching(_SLOT, "a worker's slot, such as node-0/0")
        return SlotId(NodeId(match[1]), int(match[2]))

    def _seconds(self) -> float:
        return parse_seconds(self._matching(_SECONDS, "a number of seconds, such as 3.5s").group())

    def _peek(self) -> str | None:
        return self._words[self._next] if self._next < len(self._words) else None

    def _one_of(self, choices: Sequence[str]) -> str:
        word = self._peek()
        if word is None or word not in choices:
            close = difflib.get_close_matches(word or "", choices, n=1)
            raise self._stumble(" or ".join(choices), close[0] if close else None)
        self._next += 1
        return word

    def _matching(self, pattern: re.Pattern[str], expected: str) -> re.Match[str]:
        word = self._peek()
        match = pattern.fullmatch(word or "")
        if match is None:
            raise self._stumble(expected)
        self._next += 1
        return match

    def _stumble(self, expected: str, meant: str | None = None) -> FaultSyntaxError:
        word = self._peek()
        where = f"{word!r} (word {self._next + 1})" if word is not None else "its end"
        hint = f"; did you mean {meant!r}?" if meant is not None else ""
        return FaultSyntaxError(
            f"fault {self._sentence!r}: stumbled over {where}, where {expected} should be{hint}\n{GRAMMAR}"
        )


def _refused(sentence: str, what: str, why: str) -> FaultSyntaxError:
    return FaultSyntaxError(f"fault {sentence!r}: there never will be {what}: {why}")

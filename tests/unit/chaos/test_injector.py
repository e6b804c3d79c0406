"""The injector: every fault fires once, in order, at its step or time; what is not there is reported, not raised."""

import asyncio
import signal

from holdfast.chaos.faults import node_name, parse_fault
from holdfast.chaos.injector import FaultReport, Injector
from holdfast.model.ids import NodeId, SlotId


class Recorded:
    """Nodes that only write down what is done to them; `absent` ones are not there."""

    def __init__(self, *absent: str) -> None:
        self.done: list[str] = []
        self._absent = absent
        self._count = 2

    def signal_node(self, node: NodeId, number: signal.Signals) -> None:
        self._note(node, f"{number.name} to all of {node}")

    def signal_agent(self, node: NodeId, number: signal.Signals) -> None:
        self._note(node, f"{number.name} to the agent of {node}")

    def signal_worker(self, slot: SlotId, number: signal.Signals) -> None:
        self._note(slot.node, f"{number.name} to the worker of {slot}")

    async def drain(self, node: NodeId, grace_s: float | None, reason: str) -> None:
        self._note(node, f"drain {node} within {grace_s}")

    async def join(self) -> NodeId:
        self._count += 1
        self.done.append("join")
        return node_name(self._count - 1)

    def _note(self, node: NodeId, text: str) -> None:
        if node in self._absent:
            raise LookupError(f"{node} has left")
        self.done.append(text)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def injector(nodes: Recorded, *sentences: str) -> tuple[Injector, list[FaultReport]]:
    reports: list[FaultReport] = []
    return Injector([parse_fault(sentence) for sentence in sentences], nodes, reports.append), reports


async def test_a_fault_fires_as_soon_as_its_step_is_committed_and_only_once() -> None:
    nodes = Recorded()
    under_test, reports = injector(nodes, "kill node-1 at step 3", "join at step 2")
    running = asyncio.create_task(under_test.run())

    under_test.committed(1)
    await settle()
    assert nodes.done == []

    under_test.committed(2)
    await settle()
    assert nodes.done == ["join"]

    under_test.committed(7)  # commits may be seen several at once
    under_test.committed(8)
    await asyncio.wait_for(running, 1)
    assert nodes.done == ["join", "SIGKILL to all of node-1"]
    assert [(str(report), report.node) for report in reports] == [
        ("fault: join at step 2 (node-2)", "node-2"),
        ("fault: kill node-1 at step 3", "node-1"),
    ]


async def test_each_verb_does_what_it_says_and_faults_due_at_once_keep_their_order() -> None:
    nodes = Recorded()
    under_test, _ = injector(
        nodes,
        "terminate node-0 at step 1",
        "stop node-1 at step 1",
        "resume node-1 at step 1",
        "kill agent node-1 at step 1",
        "stop worker node-0/1 at step 1",
        "drain node-0 within 5s at step 1",
        "drain node-1 at step 1",
    )
    under_test.committed(1)
    await under_test.run()

    assert nodes.done == [
        "SIGTERM to the agent of node-0",
        "SIGSTOP to all of node-1",
        "SIGCONT to all of node-1",
        "SIGKILL to the agent of node-1",
        "SIGSTOP to the worker of node-0/1",
        "drain node-0 within 5.0",
        "drain node-1 within None",
    ]


async def test_a_timed_fault_waits_for_its_time_and_not_for_a_step() -> None:
    nodes = Recorded()
    under_test, _ = injector(nodes, "kill node-1 after 10ms", "kill node-0 after 0s")

    await asyncio.wait_for(under_test.run(), 5)

    assert nodes.done == ["SIGKILL to all of node-0", "SIGKILL to all of node-1"]


async def test_a_fault_that_finds_nobody_is_reported_and_the_next_one_fires() -> None:
    nodes = Recorded("node-1")
    under_test, reports = injector(nodes, "kill node-1 at step 1", "kill node-0 at step 1")
    under_test.committed(1)
    await under_test.run()

    assert nodes.done == ["SIGKILL to all of node-0"]
    assert [str(report) for report in reports] == [
        "fault missed: kill node-1 at step 1: node-1 has left",
        "fault: kill node-0 at step 1",
    ]


async def test_what_has_not_fired_by_the_end_is_reported() -> None:
    under_test, reports = injector(Recorded(), "kill node-1 at step 5")
    running = asyncio.create_task(under_test.run())
    await settle()
    running.cancel()

    under_test.missed("the job ended before")

    assert [str(report) for report in reports] == ["fault missed: kill node-1 at step 5: the job ended before"]


async def test_only_a_join_that_needs_no_step_is_expected_when_nobody_is_left() -> None:
    assert not injector(Recorded(), "join at step 5", "kill node-1 after 1s")[0].expects_join
    assert injector(Recorded(), "join after 5s")[0].expects_join

"""What the operator's benchmark pretends is taken by the operator for the work of agents."""

import time

from benchmarks.harness.operator_process import Reading
from benchmarks.harness.pretended_run import PretendedRun

from holdfast.model.ids import NodeId
from holdfast.model.records import DrainRecord
from holdfast.ports.store import Operation, Put
from holdfast.telemetry.run_state import RunState
from holdfast_operator.handlers.run_fold import RunFold
from holdfast_operator.reconcile.snapshot import RunSnapshot

NODES = tuple(NodeId(f"gpt-{index}") for index in range(3))


class Watched:
    """A pretended run of three nodes, and what an operator makes of it."""

    def __init__(self) -> None:
        self.run = PretendedRun("gpt", nodes=3)
        self._fold = RunFold(self.run.keys, recoveries=0, generation=0)
        for node in NODES:
            self.shows(self.run.joined(node, f"uid of {node}", lease=1))

    def shows(self, operations: tuple[Operation, ...]) -> RunSnapshot | None:
        changes = [(one.key, one.value if isinstance(one, Put) else None) for one in operations]
        self._fold.see(changes, time.time())
        assert not self._fold.trouble
        return self._fold.snapshot()


def test_a_job_trains_once_all_its_nodes_have_joined() -> None:
    watched = Watched()
    run = watched.shows(watched.run.stepped())
    assert run is not None
    assert (run.state, run.step, run.layout) == (RunState.TRAINING, 1, "3x1")
    assert run.members == run.nodes.keys() == set(NODES)


def test_a_node_that_is_told_to_leave_is_released_and_gone_and_does_not_join_again() -> None:
    watched = Watched()
    run = watched.shows(watched.run.drained(DrainRecord(node=NODES[0], grace_s=25.0, reason="a taint")))
    assert run is not None
    assert run.drains[NODES[0]].is_released
    assert (run.members, run.recoveries, run.state) == (frozenset(NODES[1:]), 0, RunState.TRAINING)
    assert watched.run.knows(f"uid of {NODES[0]}")
    assert watched.run.left(NODES[0], f"uid of {NODES[0]}") == ()


def test_a_node_that_is_lost_and_one_in_its_place_are_a_recovery_and_a_join() -> None:
    watched = Watched()
    watched.shows(watched.run.left(NODES[1], f"uid of {NODES[1]}"))
    run = watched.shows(watched.run.joined(NODES[1], "another", lease=1))
    assert run is not None
    assert (run.recoveries, run.generation, run.members) == (1, 3, frozenset(NODES))


def test_of_two_readings_the_difference_is_told_for_each() -> None:
    before = Reading(at_s=10.0, cpu_s=1.0, calls={"create pods": 5, "get secrets": 2}, passes=3)
    used = Reading(at_s=20.0, cpu_s=1.5, calls={"create pods": 15, "get secrets": 2}, passes=9).since(before)
    assert (used.core_share, used.passes, used.calls_each(5)) == (0.05, 6, {"create pods": 2.0})

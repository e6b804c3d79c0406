"""Promises that have a time: a drain ends by its deadline, and training resumes once nothing hinders it any more.

Looked at whenever nothing can happen before time passes, so the scheduler's whims cannot break them.
"""

from holdfast.simulator.wires import require
from holdfast.simulator.worker import HANG_S
from holdfast.simulator.world import World

# A worker that hangs is found after HANG_S, a start that it then stalls is tried again after start_s, and either may
# happen once more to who was not seen to hang the first time. The rest (leases, probes, settling) are seconds.
_MARGIN_S = 60.0


def at_rest(world: World) -> None:
    """Raises: ViolationError: a node has outstayed the deadline of its drain."""
    for agent in world.agents.values():
        if not agent.active:
            continue
        drain = agent.member.drain
        overdue = drain is not None and agent.now_s >= drain[1]
        require(not overdue or agent.left, f"{agent.node} stays beyond the deadline of its drain")
        late = agent.leaves_by_s is not None and world.now_s >= agent.leaves_by_s
        require(not late, f"{agent.node} does not leave although it should have")


def bound_s(world: World) -> float:
    """The most that training may take to go on, in simulated seconds."""
    return 2 * (HANG_S + world.job.start_s + world.job.abort_s) + _MARGIN_S


def is_stuck(world: World, lacks_nodes: bool) -> bool:
    """Whether no step was committed for too long since the last disturbance was over."""
    if not world.is_calm or lacks_nodes or world.outcome is not None:
        return False
    return world.now_s - max(world.disturbed_s, world.checkers.advanced_s) > bound_s(world)

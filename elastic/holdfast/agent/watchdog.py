"""Finds workers that make no progress.

Who does nothing in its own code is killed. Who waits for others is rarely the one that hangs: it is only reported,
after the others had their turn. Who waits for a start that reads from remote storage is left to the coordinator, which
knows how long that may take.
"""

import asyncio
from collections.abc import Callable, Iterable

from holdfast.agent.workers import Workers
from holdfast.control.member import Member
from holdfast.control.member_commands import MemberCommand
from holdfast.model.heartbeat import Phase

# How many times the limit of its own code a worker may wait for the others.
_TURNS = 3
# How many times that limit one may be silent before only a new agent helps: it was to be killed, and did not end.
_BEYOND = 4
_WATCHDOG_S = 0.25


async def watch_workers(
    workers: Workers, node: Member, limit_s: float, do: Callable[[Iterable[MemberCommand]], None]
) -> None:
    """For ever."""
    while True:
        await asyncio.sleep(_WATCHDOG_S)
        for ref in node.live_workers:
            index = ref.slot.index
            phase, silent_s = workers.silent_s(index)
            if phase is Phase.COMPUTE and silent_s > limit_s:
                workers.kill(index, f"no progress for {silent_s:.0f} s", show_stacks=True)
            elif phase is Phase.COMMUNICATE and silent_s > _TURNS * limit_s and not _starts_from_storage(node, index):
                do(node.worker_waits(index, f"{ref.slot} has waited for {silent_s:.0f} s"))


def _starts_from_storage(node: Member, index: int) -> bool:
    start, running = node.start, node.workers[index].running
    is_running = start is None or (running is not None and running[0] == start.generation)
    return start is not None and not is_running and bool(start.checkpoint and start.restores)


def beyond_help(workers: Workers, node: Member, limit_s: float) -> str:
    """Which worker has not ended for long after it was to be killed; empty where there is none."""
    for ref in node.live_workers:
        phase, silent_s = workers.silent_s(ref.slot.index)
        if phase is Phase.COMPUTE and silent_s > _BEYOND * limit_s:
            return f"the worker of {ref.slot} has made no progress for {silent_s:.0f} s, and cannot be killed"
    return ""

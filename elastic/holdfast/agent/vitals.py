"""How an agent is: for peers that probe it, for people, and for the cluster that runs it."""

import os
from collections.abc import Callable
from typing import Any

from holdfast.agent.watchdog import beyond_help
from holdfast.agent.workers import Workers
from holdfast.control.member import Member
from holdfast.model.ids import NodeId


class Vitals:
    """Of one agent."""

    def __init__(self, node: NodeId, workers: Workers, member: Callable[[], Member | None], progress_s: float) -> None:
        """`member`: None until the agent runs."""
        self._node, self._workers, self._member, self._progress_s = node, workers, member, progress_s

    def alive(self, incarnation: str) -> dict[str, Any]:
        return {"incarnation": incarnation, "workers": self._live_workers()}

    def status(self) -> dict[str, Any]:
        member = self._member()
        generation = member.generation if member is not None else None
        return {
            "node": self._node,
            "state": member.node_state if member is not None else "starting",
            "generation": generation.number if generation is not None else None,
            "step": member.step if member is not None else 0,
            "agent_pid": os.getpid(),
            "worker_pids": list(self._workers.pids()),
        }

    @property
    def is_ready(self) -> bool:
        """It has joined with warm workers, and does not leave."""
        member = self._member()
        joined = member is not None and member.node_state == "ready" and not member.ended
        return joined and bool(self._live_workers())

    @property
    def stuck(self) -> str:
        """Why it cannot go on without being started anew; empty where it can."""
        member = self._member()
        return beyond_help(self._workers, member, self._progress_s) if member is not None else ""

    def _live_workers(self) -> list[str]:
        member = self._member()
        refs = member.live_workers if member is not None else ()
        return [ref.worker for ref in refs if self._workers.is_alive(ref.slot.index)]

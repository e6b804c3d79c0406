"""One replica of the operator, from its start to its end: it answers the kubelet, waits for its turn, acts, stops."""

import asyncio
import gc
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast_operator.handlers.client import Cluster
from holdfast_operator.handlers.errors import LeadershipLostError
from holdfast_operator.handlers.health import HealthPort
from holdfast_operator.handlers.leading import Leadership, LeaseSettings
from holdfast_operator.handlers.manager import Deciding, Manager, ManagerSettings
from holdfast_operator.handlers.metrics import OperatorMetrics
from holdfast_operator.handlers.tasks import stop

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSettings:
    """`kubeconfig` None: as the pod that this is, else by the environment."""

    manager: ManagerSettings
    lease: LeaseSettings
    host: str
    port: int  # 0: any that is free
    kubeconfig: Path | None = None


class Operator:
    """One a process."""

    def __init__(self, settings: OperatorSettings, decide: Deciding) -> None:
        self._settings, self._decide = settings, decide
        self._metrics = OperatorMetrics()
        self._manager: Manager | None = None
        self.port: int | None = None  # of its HTTP port, once it listens

    async def run(self) -> None:
        """Until cancelled.

        Raises:
            UserError: the API server cannot be spoken to as configured, or the port is taken.
            LeadershipLostError: another replica may act now.
        """
        settings = self._settings
        cluster = await Cluster.connect(settings.kubeconfig, self._metrics)
        health = HealthPort(settings.host, settings.port, self._metrics, alive=lambda: "", ready=self._unready)
        try:
            await health.open()
            self.port = health.port
            log.info("operator.started", extra={"identity": settings.lease.identity, "port": health.port})
            # What is there by now stays: it need not be walked through again and again.
            gc.freeze()
            await self._lead(cluster)
        finally:
            await health.close()
            await cluster.close()

    async def _lead(self, cluster: Cluster) -> None:
        leadership = Leadership(cluster, self._settings.lease)
        try:
            await leadership.take()
            self._metrics.is_leader.set(1)
            self._manager = manager = Manager(
                cluster, self._settings.manager, self._metrics, self._decide, lambda: leadership.is_held
            )
            await _first(leadership.hold(), manager.run())
        except LeadershipLostError as error:
            log.error("operator.lost_lease", extra={"error": str(error)})
            raise
        finally:
            self._metrics.is_leader.set(0)
            await leadership.release()

    def _unready(self) -> str:
        """A replica that waits for its turn is ready for it."""
        is_reading = self._manager is not None and not self._manager.is_synced
        return "the cluster is being read" if is_reading else ""


async def _first(*works: Coroutine[Any, Any, None]) -> None:
    """Raises what the first of them to end raises; none of them goes on after that."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await asyncio.gather(*(stop(task) for task in tasks))

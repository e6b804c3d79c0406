"""One life of the operator in this process, which need not ask whether it leads."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from harness.kube.control_plane import ControlPlane
from holdfast_operator.handlers.client import Cluster
from holdfast_operator.handlers.errors import LeadershipLostError
from holdfast_operator.handlers.manager import Deciding, Manager, ManagerSettings
from holdfast_operator.handlers.metrics import OperatorMetrics
from holdfast_operator.reconcile.deciding import reconcile
from holdfast_operator.status.invalid import invalid_status


@asynccontextmanager
async def running_manager(plane: ControlPlane, namespace: str) -> AsyncIterator[None]:
    """It lives again each time that it is told not to lead any more; what else ends it is raised when this is left."""

    async def live(client: Cluster) -> None:
        deciding = Deciding(reconcile=reconcile, invalid=invalid_status)
        settings = ManagerSettings(namespace=namespace)
        while True:
            with suppress(LeadershipLostError):
                await Manager(client, settings, OperatorMetrics(), deciding, lambda: True).run()

    client = await Cluster.connect(plane.kubeconfig, OperatorMetrics())
    task = asyncio.create_task(live(client))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await client.close()

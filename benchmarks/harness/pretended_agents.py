"""The agents of all jobs of the operator's benchmark, in one process: they run and compute nothing, and write in the
rendezvous what agents write.

    python -m benchmarks.harness.pretended_agents SERVER CA CERTIFICATE KEY --namespace NAME --nodes N

A pod that runs has joined, one that is gone has left, one that is told to leave is released at once. SIGUSR1: from now
on every job commits a step a second; again: no more.
"""

import asyncio
import signal
from contextlib import aclosing

from benchmarks.harness.hollow_side import access_of, access_parser
from benchmarks.harness.pretended_run import PretendedRun
from harness.kube.api import Api, Object
from holdfast.model.ids import NodeId
from holdfast.model.records import DrainRecord
from holdfast.model.wire import decode
from holdfast.ports.store import Operation, Store
from holdfast.stores.address import open_store, parse_store
from holdfast_operator.api.v1alpha1.names import AGENT_CONTAINER, LABEL_JOB

_LEASE_S = 3600.0  # of all nodes: nobody's ends by itself here


class PretendedAgents:
    """Of one namespace."""

    def __init__(self, api: Api, namespace: str, nodes: int) -> None:
        self._api, self._namespace, self._nodes = api, namespace, nodes
        self._runs: dict[str, PretendedRun] = {}
        self._store: Store | None = None
        self._is_stepping, self._lease = False, 0

    async def run(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._toggle)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_pods(tasks), name="pods")
            tasks.create_task(self._step(), name="steps")

    def _toggle(self) -> None:
        self._is_stepping = not self._is_stepping

    async def _follow_pods(self, tasks: asyncio.TaskGroup) -> None:
        pods = self._api.watch(f"/api/v1/namespaces/{self._namespace}/pods", labelSelector=LABEL_JOB)
        async with aclosing(pods) as changes:
            async for kind, pod in changes:
                environment = _environment_of(pod)
                if self._store is None:
                    self._store = open_store(parse_store(environment["HOLDFAST_STORE"]))
                    self._lease = await self._store.grant(_LEASE_S)
                    tasks.create_task(self._follow_drains(self._store), name="drains")
                run = self._run_of(environment["HOLDFAST_JOB"])
                node, uid = NodeId(pod["metadata"]["name"]), str(pod["metadata"]["uid"])
                if kind == "DELETED":
                    await self._write(run.left(node, uid))
                elif _is_running(pod) and not run.knows(uid):
                    await self._write(run.joined(node, uid, self._lease))

    async def _follow_drains(self, store: Store) -> None:
        """None was written before the first pod."""
        async for changes in store.watch("jobs/", 1):
            for change in changes:
                _, job, kind, *_ = change.kv.key.split("/")
                if kind == "drains" and change.kind == "put":
                    drain = decode(DrainRecord, change.kv.value)
                    if not drain.released:
                        await self._write(self._run_of(job).drained(drain))

    async def _step(self) -> None:
        """Spread over the second, as jobs are."""
        loop = asyncio.get_running_loop()
        while True:
            begun_s = loop.time()
            training = [run for run in self._runs.values() if run.is_training] if self._is_stepping else []
            for number, run in enumerate(training):
                await asyncio.sleep(begun_s + number / len(training) - loop.time())
                await self._write(run.stepped())
            await asyncio.sleep(begun_s + 1 - loop.time())

    async def _write(self, operations: tuple[Operation, ...]) -> None:
        if operations:
            assert self._store is not None
            await self._store.transact([], operations)

    def _run_of(self, job: str) -> PretendedRun:
        if job not in self._runs:
            self._runs[job] = PretendedRun(job, self._nodes)
        return self._runs[job]


def _environment_of(pod: Object) -> dict[str, str]:
    (container,) = [one for one in pod["spec"]["containers"] if one["name"] == AGENT_CONTAINER]
    return {one["name"]: one.get("value", "") for one in container["env"]}


def _is_running(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]


async def _main() -> None:
    made = access_parser()
    made.add_argument("--namespace", required=True)
    made.add_argument("--nodes", type=int, required=True, help="of each job")
    arguments = made.parse_args()
    async with Api(access_of(arguments)) as api:
        await PretendedAgents(api, arguments.namespace, arguments.nodes).run()


if __name__ == "__main__":
    asyncio.run(_main())

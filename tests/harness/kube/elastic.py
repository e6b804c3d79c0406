"""An `ElasticJob` of the toy Program in a cluster: its manifest, and what cluster and rendezvous tell of it."""

import asyncio
import base64
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.kube.api import Api, Object
from harness.kube.pods import WITHIN_S, until
from holdfast.cli.job_status import read_status
from holdfast.cli.target import Target
from holdfast.errors import HoldfastError
from holdfast.stores.address import StoreAccess, parse_store
from holdfast_operator.api.v1alpha1 import names

_STATE_FOLDER = "/state"  # of this machine, in every pod
WORKER_IMAGE = "holdfast-worker:test"
STEPS = 50
_END_TOLD_S = 30.0  # after the job's
ONE_POD = {"cpu": "1", "memory": "4Gi", "pods": "10"}  # capacity of a node that holds one pod of a job


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where jobs are made: an etcd for their nodes, and a folder of this machine for their state."""

    api: Api
    namespace: str
    endpoint: str
    state: Path

    @property
    def jobs(self) -> str:
        return f"/apis/holdfast.dev/v1alpha1/namespaces/{self.namespace}/elasticjobs"

    @property
    def store(self) -> str:
        """Where its jobs' nodes find each other."""
        return f"etcd://{self.endpoint}/{names.store_prefix('holdfast', self.namespace)}"

    def folder(self, name: str) -> Path:
        """Of this machine, for the state of the job of that name."""
        folder = self.state / name
        folder.mkdir(mode=0o777, exist_ok=True)
        folder.chmod(0o777)  # the pods are another user's
        return folder

    def manifest(self, name: str, *, steps: int, pause_s: float = 0.0, **spec: Any) -> Object:
        """Each of its pods takes a processor, so that a node with one has one of them."""
        container = {
            "name": names.AGENT_CONTAINER,
            "image": WORKER_IMAGE,
            "resources": {"requests": {"cpu": "1", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
            "volumeMounts": [{"name": "state", "mountPath": _STATE_FOLDER}],
        }
        volume = {"name": "state", "hostPath": {"path": str(self.folder(name))}}
        asked = {
            "program": {"entry": "tests/programs/toy.py:program", "params": {"pause_s": pause_s}},
            "steps": steps,
            "device": "cpu",
            "layout": {"depth": 2},
            "timeouts": {"leaseTtl": 2, "startSettle": 30},
            "nodes": {"min": 1, "max": 4},
            "rendezvous": {"endpoints": [self.endpoint]},
            "state": {"url": f"file://{_STATE_FOLDER}", "checkpointEvery": 1000},
            "template": {"spec": {"containers": [container], "volumes": [volume]}},
        }
        return {
            "apiVersion": "holdfast.dev/v1alpha1",
            "kind": "ElasticJob",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": asked | spec,
        }

    def job(self, name: str) -> "Job":
        return Job(self, name)


class Job:
    """Made, or about to be."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name = name
        self._cluster, self._api = cluster, cluster.api
        self._target: Target | None = None

    async def get(self) -> Object:
        return await self._api.get(f"{self._cluster.jobs}/{self.name}")

    async def pods(self) -> dict[str, Object]:
        found = await self._api.items(
            f"/api/v1/namespaces/{self._cluster.namespace}/pods", labelSelector=f"{names.LABEL_JOB}={self.name}"
        )
        return {pod["metadata"]["name"]: pod for pod in found}

    async def pod_on(self, node: str) -> str:
        """The name of its pod there that is not ending."""
        (name,) = [
            name
            for name, pod in (await self.pods()).items()
            if pod["spec"].get("nodeName") == node and "deletionTimestamp" not in pod["metadata"]
        ]
        return name

    async def running(self) -> Object:
        """As `holdfast status` tells it; empty before the job is in the rendezvous."""
        if self._target is None:
            self._target = await self._find_target()
        if self._target is None:
            return {}
        try:
            return (await read_status(self._target)).as_json()
        except HoldfastError:
            return {}

    async def wait_run(self, holds: Callable[[Object], bool], what: str, within_s: float = WITHIN_S) -> Object:
        def is_over(told: Object) -> bool:
            return bool(told) and (holds(told) or told["outcome"] is not None)

        seen = await until(self.running, is_over, what, within_s)
        assert holds(seen), f"the job was over before it was {what}: {seen}"
        return seen

    async def wait_step(self, step: int) -> Object:
        return await self.wait_run(lambda told: bool(told["step"] >= step), f"at step {step}")

    async def wait_members(self, count: int, within_s: float = WITHIN_S) -> Object:
        """So many nodes train."""

        def holds(told: Object) -> bool:
            stages = [stage["node"] for pipeline in told["pipelines"] for stage in pipeline["stages"]]
            return told["state"] == "training" and len(stages) == count

        return await self.wait_run(holds, f"training on {count} nodes", within_s)

    async def wait_condition(self, kind: str, within_s: float = WITHIN_S) -> Object:
        """The condition, once it is true; a job that fails instead says why."""

        def is_over(job: Object) -> bool:
            return bool({kind, "Failed"} & true_conditions(job).keys())

        seen = true_conditions(await until(self.get, is_over, kind, within_s))
        assert kind in seen, seen
        return seen[kind]

    @asynccontextmanager
    async def following(self) -> AsyncIterator[list[Object]]:
        """The job, already in the rendezvous, as `holdfast events` tells it; leaving waits for its end."""
        target = self._target = self._target or await self._find_target()
        assert target is not None
        assert target.access.secret is not None
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "holdfast.cli.main", "events", "--follow", "--json"),
            *("--job", target.job, "--store", self._cluster.store),
            stdout=PIPE,
            env={**os.environ, "HOLDFAST_SECRET": target.access.secret.decode()},
        )
        assert process.stdout is not None
        # What it has told anything of, it watches.
        events: list[Object] = [json.loads(await process.stdout.readline())]
        reading = asyncio.create_task(_read_lines(process.stdout, events))
        try:
            yield events
            async with asyncio.timeout(_END_TOLD_S):
                await reading
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            reading.cancel()

    async def weights(self, to: Path) -> str:
        """The hash of what it left."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "holdfast.cli.main", "collect", str(self._cluster.state / self.name / "weights")),
            *("--to", str(to), "--json"),
            stdout=PIPE,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        return str(json.loads(output)["weights_sha256"])

    async def _find_target(self) -> Target | None:
        job = await self._api.find(f"{self._cluster.jobs}/{self.name}")
        secret = await self._api.find(
            f"/api/v1/namespaces/{self._cluster.namespace}/secrets/{names.secret_name(self.name)}"
        )
        if job is None or secret is None:
            return None
        return Target(
            job=names.job_id(self.name, job["metadata"]["uid"]),
            address=parse_store(self._cluster.store),
            access=StoreAccess(secret=base64.b64decode(secret["data"]["secret"])),
        )


async def _read_lines(lines: asyncio.StreamReader, to: list[Object]) -> None:
    async for line in lines:
        to.append(json.loads(line))


def true_conditions(job: Object) -> dict[str, Object]:
    """By type."""
    found = job.get("status", {}).get("conditions", ())
    return {one["type"]: one for one in found if one["status"] == "True"}

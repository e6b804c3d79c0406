"""The operator as a process, with all that it decides."""

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.etcd.server import EtcdServer
from harness.kube.control_plane import ControlPlane
from holdfast_operator.api.v1alpha1.names import LABEL_JOB
from holdfast_operator.handlers.client import ELASTIC_JOBS, LEASES, PODS, Cluster
from integration.operator.objects import WITHIN_S, elastic_job

pytestmark = [pytest.mark.kube, pytest.mark.slow]


async def test_a_job_gets_its_pods_and_sigterm_ends_the_operator_cleanly(
    plane: ControlPlane, cluster: Cluster, namespace: str, rendezvous_server: EtcdServer, tmp_path: Path
) -> None:
    await cluster.create(ELASTIC_JOBS, namespace, elastic_job("a", rendezvous_server.endpoint))
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "holdfast_operator.main", "--kubeconfig", str(plane.kubeconfig)),
            *("--namespace", namespace, "--lease-namespace", namespace, "--host", "127.0.0.1", "--port", "0"),
            stderr=output,
        )
    try:
        await _pods_come(cluster, namespace, 2)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), WITHIN_S) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    entries: list[dict[str, Any]] = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert [entry["event"] for entry in entries if entry["level"] in {"warning", "error"}] == []
    assert entries[-1]["event"] == "operator.stopped"
    lease = await cluster.get(LEASES, namespace, "holdfast-operator")
    assert lease["spec"]["holderIdentity"] == ""


async def _pods_come(cluster: Cluster, namespace: str, count: int) -> None:
    query = {"labelSelector": f"{LABEL_JOB}=a"}
    for _ in range(int(WITHIN_S / 0.1)):
        if len((await cluster.list_page(PODS, namespace, query)).items) == count:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"there are no {count} pods")

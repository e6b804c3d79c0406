"""Prometheus, with the read token, finds what the agent of a real job has done."""

import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness.realrun.cluster import cluster
from harness.realrun.jobs import toy_spec

pytestmark = [pytest.mark.slow]


def test_an_agent_tells_of_its_job(tmp_path: Path) -> None:
    spec = toy_spec(tmp_path, params={"pause_s": 0.05}, steps=100_000, nodes={"min": 1, "desired": 1})
    with cluster(tmp_path / "cluster") as one:
        one.submit(spec, tmp_path / "out")
        one.start("node-0")
        one.wait_for(lambda: one.status()["step"] >= 3, "training")
        token = one.command("read-token", "--job", "toy").strip()
        port = one.status()["nodes"]["node-0"]["port"]
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/metrics", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            families = text_string_to_metric_families(response.read().decode())
        told = {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}
        one.about("stop", "--wait")
        assert one.agents["node-0.0"].wait(30) == 0
    assert told["holdfast_steps"] == 100_000
    assert told["holdfast_last_committed_step"] >= 3
    assert told["holdfast_steps_committed_total"] >= 3
    assert told["holdfast_loss"] > 0
    assert [told[f"holdfast_{name}"] for name in ("generation", "members", "nodes", "is_leader")] == [1, 1, 1, 1]
    assert told["holdfast_worker_restarts_total"] == 0

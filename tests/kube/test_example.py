"""The example that people begin with, through preemptions. What docs/kubernetes.md shows of it is left in the test's
folder, as transcript.txt (`pytest --basetemp=DIR`)."""

import json
import re
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
import yaml

from harness.kube.api import Object
from harness.kube.elastic import Cluster, Job
from harness.kube.images import CHECKOUT
from harness.kube.installation import Installation
from harness.kube.kubelet import Kubelet
from harness.kube.pods import until
from harness.kube.tools import Tool
from harness.kube.transcript import Transcript
from harness.realrun.jobs import run_job

pytestmark = [pytest.mark.kube, pytest.mark.slow, pytest.mark.chaos]
EXAMPLE = CHECKOUT / "examples/kubernetes/gpt-tiny.yaml"
# More than the example's own: on a busy machine it takes long until those who come are there.
STEPS = 100
ONE_POD = {"cpu": "400m", "memory": "4Gi", "pods": "10"}  # the example's pods ask for 250m


@pytest.fixture(scope="module")
def undisturbed_gpt(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash of what the same Program's run on one node leaves, without Kubernetes."""
    ended = run_job(
        CHECKOUT / "examples/gpt/tiny.yaml",
        tmp_path_factory.mktemp("gpt") / "out",
        *("--nodes", "1", "--steps", str(STEPS)),
        timeout_s=300.0,
    )
    assert ended.code == 0, ended.output
    return str(ended.report["weights_sha256"])


def example(cluster: Cluster) -> Object:
    """With its storage uncommented, and what it cannot know: where this cluster's etcd is, and a volume."""
    found: Object = yaml.safe_load(re.sub(r"(?m)^( +)# ", r"\1", EXAMPLE.read_text()))
    spec = found["spec"]
    spec["steps"] = STEPS
    spec["rendezvous"]["endpoints"] = [cluster.endpoint]
    (volume,) = spec["template"]["spec"]["volumes"]
    folder = cluster.folder("gpt-tiny")  # which state.url names, below where the volume is mounted
    spec["template"]["spec"]["volumes"] = [{"name": volume["name"], "hostPath": {"path": str(folder.parent)}}]
    return found


@pytest.mark.timeout(800)
async def test_the_tiny_gpt_outlives_notice_deletion_and_silent_loss(
    cluster: Cluster, operator: Installation, kubelet: Kubelet, kubectl: Tool, undisturbed_gpt: str, tmp_path: Path
) -> None:
    await operator.install()
    for name in ("n1", "n2", "n3", "n4"):
        await kubelet.add(name, capacity=ONE_POD)
    job, seen, done_s = cluster.job("gpt-tiny"), Transcript(kubectl), dict[str, float]()

    def happens(what: str) -> None:
        seen.note(what)
        done_s[what] = time.time()

    async with seen.watching("get", "elasticjobs", "--watch"):
        await seen.kubectl("apply", "--filename=-", told=json.dumps(example(cluster)))
        await job.wait_members(4)
        async with job.following() as events:
            await trained_on(job, 4)
            happens("node n1 gets notice")
            await seen.kubectl("taint", "node", "n1", "cloud.google.com/impending-node-termination=:NoSchedule")
            await trained_on(job, 3)
            happens("node n2 is deleted, and its machine is gone")
            await kubelet.remove("n2")
            await trained_on(job, 2)
            happens("node n3 is silent from now on")
            await kubelet.lose("n3")
            happens("two new nodes come")
            for name in ("n5", "n6"):
                await kubelet.add(name, capacity=ONE_POD)
            await job.wait_members(1)
            await job.wait_members(3)
            await job.wait_condition("Complete", within_s=300.0)
    await until(job.pods, lambda pods: sum(map(is_ended, pods.values())) == 3, "ended")
    for command in (("get", "elasticjobs", "--output=wide"), ("get", "pods", "--output=wide"), ("describe", "ej")):
        await seen.kubectl(*command)
    weights = await job.weights(tmp_path / "weights")
    begun_s, told = min(done_s.values()), figures(events)
    happened = [(at_s, f"# {what}") for what, at_s in done_s.items()] + [(e["time_s"], e["text"]) for e in events]
    account = [f"{at_s - begun_s:5.1f} s | {text}" for at_s, text in sorted(happened)]
    hashes = [f"weights_sha256 {weights}", f"undisturbed    {undisturbed_gpt}"]
    (tmp_path / "transcript.txt").write_text("\n".join([*seen.lines, "", *hashes, "", *account, json.dumps(told), ""]))

    assert weights == undisturbed_gpt
    status = (await job.get())["status"]
    assert (status["phase"], status["progress"]) == ("Complete", f"{STEPS}/{STEPS}")
    assert status["disruptions"] == {"seen": 3, "survived": 3}
    assert status["recoveries"] >= 2, "a busy machine may lose more"
    drained_s = next(event["time_s"] for event in events if event["kind"] == "node.draining")
    assert done_s["node n1 gets notice"] < drained_s < done_s["node n2 is deleted, and its machine is gone"]


async def trained_on(job: Job, nodes: int) -> None:
    """They have committed two steps, so that there is a pause to tell of what comes next."""
    seen = await job.wait_members(nodes)
    await job.wait_step(seen["step"] + 2)


def is_ended(pod: Object) -> bool:
    return bool(pod["status"].get("phase") == "Succeeded")


def figures(events: list[Object]) -> Object:
    """By the wall clock of this machine."""
    commits = [event["time_s"] for event in events if event["kind"] == "step.committed"]
    causes = {e["fields"]["generation"]: e["fields"]["cause"] for e in events if e["kind"] == "generation.begun"}
    pauses: dict[str, list[float]] = {}
    for event in events:
        if event["kind"] == "generation.recovered":
            fields = event["fields"]
            pauses.setdefault(causes.get(fields["generation"], "before"), []).append(fields["downtime_s"])
    return {"step_s": median(later - earlier for earlier, later in pairwise(commits)), "pauses_s": pauses}

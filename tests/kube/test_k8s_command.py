"""`holdfast k8s` against a real control plane: what it makes, changes and shows, and what it says when refused."""

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.kube.api import Api, Object
from harness.kube.control_plane import ControlPlane
from harness.kube.kubelet import Kubelet
from harness.kube.pods import pod_with, until, wait_for_pod
from harness.kube.tools import Tool
from holdfast_operator.api.v1alpha1.crd import crd
from holdfast_operator.api.v1alpha1.names import LABEL_JOB

pytestmark = pytest.mark.kube
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
SPEC = {"name": "toy", "program": {"entry": "toy.py:program"}, "steps": 12, "nodes": {"min": 1, "max": 4}}
OPTIONS = ("--image", "toy:1", "--etcd", "etcd:2379")


class Command:
    """`holdfast k8s` as a person with a kubeconfig calls it."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self._where = ("--kubeconfig", str(kubeconfig), "--namespace", namespace)

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        command = (sys.executable, "-m", "holdfast.cli.main", "k8s", *arguments, *self._where)
        return await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)

    async def __call__(self, *arguments: str, code: int = 0) -> str:
        process = await self.start(*arguments)
        async with asyncio.timeout(60):
            output, errors = await process.communicate()
        assert process.returncode == code, (arguments, output.decode(), errors.decode())
        return (output if code == 0 else errors).decode()

    async def told(self, *arguments: str) -> Any:
        return json.loads(await self(*arguments, "--json"))


@pytest.fixture
async def k8s(control_plane: ControlPlane, api: Api, namespace: str) -> Command:
    made = crd()
    name = made["metadata"]["name"]
    if await api.find(f"{CRDS}/{name}") is None:
        await api.create(CRDS, made)
    await until(lambda: api.get(f"{CRDS}/{name}"), _is_established, "established")
    return Command(control_plane.kubeconfig, namespace)


def _is_established(found: Object) -> bool:
    conditions = found.get("status", {}).get("conditions") or []
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(SPEC))
    return path


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({**SPEC, "steps": -1}))
    return path


async def test_a_job_is_submitted_changed_scaled_suspended_and_resumed(
    k8s: Command, spec: Path, kubectl: Tool, namespace: str
) -> None:
    made = await k8s.told("submit", str(spec), *OPTIONS)
    assert (made["job"], made["namespace"]) == ("toy", namespace)

    again = await k8s.told("submit", str(spec), "--image", "toy:2", "--etcd", "etcd:2379")
    assert again["uid"] == made["uid"], "the same job, changed"
    job = json.loads(await kubectl("get", "elasticjob", "toy", "-o", "json"))
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == "toy:2"

    assert await k8s.told("scale", "toy", "3") == {"job": "toy", "nodes": 3}
    assert (await k8s.told("suspend", "toy"))["already"] is False
    assert (await k8s.told("suspend", "toy"))["already"] is True
    job = json.loads(await kubectl("get", "elasticjob", "toy", "-o", "json"))
    assert (job["spec"]["nodes"]["desired"], job["spec"]["suspend"]) == (3, True)
    assert "goes on" in await k8s("resume", "toy")
    assert "not seen by the operator yet" in await k8s("status", "toy")
    assert [one["job"] for one in await k8s.told("status")] == ["toy"]


async def test_a_dry_run_changes_nothing_and_prints_what_would_be_made(
    k8s: Command, spec: Path, api: Api, namespace: str
) -> None:
    shown = yaml.safe_load(await k8s("submit", str(spec), *OPTIONS, "--dry-run"))
    assert (shown["kind"], shown["spec"]["nodes"]) == ("ElasticJob", {"min": 1, "max": 4})
    assert await api.find(f"/apis/holdfast.dev/v1alpha1/namespaces/{namespace}/elasticjobs/toy") is None


async def test_what_is_wrong_is_told_and_nothing_is_made(k8s: Command, spec: Path, wrong: Path, kubectl: Tool) -> None:
    assert "there is no ElasticJob of that name" in await k8s("status", "none", code=2)
    assert "there is no pod of that name" in await k8s("drain", "none", code=2)
    assert "steps: -1 given" in await k8s("submit", str(wrong), *OPTIONS, code=2)
    # Only the API server knows that this is no name.
    assert "metadata.name: " in await k8s("submit", str(spec), *OPTIONS, "--name", "Not_a_name", code=2)

    await k8s("submit", str(spec), *OPTIONS)
    assert "spec.nodes of toy allows 1 to 4" in await k8s("scale", "toy", "5", code=2)
    theirs = {"spec": {"template": {"spec": {"containers": [{"name": "holdfast", "image": "toy:9"}]}}}}
    await kubectl("patch", "elasticjob", "toy", "--type=merge", "-p", json.dumps(theirs))
    refused = await k8s("submit", str(spec), *OPTIONS, code=2)
    assert "take it over with --force" in refused
    assert ".spec.template" in refused
    await k8s("submit", str(spec), *OPTIONS, "--force")


async def test_nodes_are_shown_read_and_drained(
    k8s: Command, spec: Path, api: Api, kubelet: Kubelet, namespace: str
) -> None:
    await kubelet.add("host")
    await k8s("submit", str(spec), *OPTIONS)
    pods = f"/api/v1/namespaces/{namespace}/pods"
    for index in range(2):
        script = f"for n in 1 2 3; do echo line $n of {index}; done; sleep 60"
        container = {"name": "holdfast", "command": ["sh", "-c", script]}
        made = pod_with(f"toy-{index}", container=container, labels={LABEL_JOB: "toy"}, terminationGracePeriodSeconds=0)
        await api.create(pods, made)
    for index in range(2):
        ready = "running"
        await wait_for_pod(api, namespace, f"toy-{index}", lambda pod: pod["status"].get("phase") == "Running", ready)

    nodes = (await k8s.told("status", "toy"))["nodes"]
    assert [(node["node"], node["host"], node["leaving"]) for node in nodes] == [
        ("toy-0", "host", False),
        ("toy-1", "host", False),
    ]
    lines = [json.loads(line) for line in (await k8s("logs", "toy", "--tail", "2", "--json")).splitlines()]
    assert lines == [{"pod": f"toy-{pod}", "line": f"line {n} of {pod}"} for pod in (0, 1) for n in (2, 3)]
    assert "toy-1 | line 1 of 1" in await k8s("logs", "toy", "--node", "toy-1")

    following = await k8s.start("logs", "toy", "--follow")
    assert following.stdout is not None
    async with asyncio.timeout(30):
        seen = {(await following.stdout.readline()).decode().strip() for _ in range(6)}
    assert "toy-0 | line 3 of 0" in seen
    following.terminate()
    await following.communicate()

    assert await k8s.told("drain", "toy-1", "--within", "7") == {"node": "toy-1", "job": "toy", "grace_s": 7.0}
    pod = await api.get(f"{pods}/toy-1")
    assert pod["metadata"]["annotations"]["holdfast.dev/drain"] == "7"
    assert "leaving" in await k8s("status", "toy")
    told = await k8s("events", "toy", "--json")
    assert {"Scheduled"} <= {json.loads(line)["reason"] for line in told.splitlines()}

"""The test kubelet honours what it claims: what other tests see of pods is what a cluster would show them."""

import asyncio
import json
from contextlib import aclosing
from typing import Any

import pytest

from harness.kube.api import Api, Object
from harness.kube.kubelet import Kubelet
from harness.kube.pods import pod_with, until, wait_for_pod
from harness.kube.tools import Tool

pytestmark = pytest.mark.kube


@pytest.fixture
async def node(kubelet: Kubelet) -> str:
    return (await kubelet.add("n1", labels={"topology.kubernetes.io/zone": "z1"})).spec.name


async def ended(api: Api, namespace: str, name: str) -> Object:
    pod = await wait_for_pod(
        api, namespace, name, lambda pod: pod["status"].get("phase") in ("Succeeded", "Failed"), "ended"
    )
    ends: Object = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    return ends


async def run(api: Api, namespace: str, **fields: Any) -> Object:
    """How the container of a pod named `one` ended."""
    fields.setdefault("restartPolicy", "Never")
    await api.create(f"/api/v1/namespaces/{namespace}/pods", pod_with("one", **fields))
    return await ended(api, namespace, "one")


async def test_a_pod_has_the_environment_and_volumes_that_its_spec_describes(
    api: Api, namespace: str, node: str, kubectl: Tool
) -> None:
    await kubectl("create", "secret", "generic", "s", "--from-literal=word=hush", "--from-literal=other=x")
    await kubectl("create", "configmap", "c", "--from-literal=colour=blue")
    script = """
import json, os, pathlib
read = lambda path: pathlib.Path(path).read_text()
pathlib.Path("/scratch/x").write_text("x")
try:
    pathlib.Path("/x").write_text("x"); readonly = False
except OSError:
    readonly = True
told = {name: os.environ.get(name) for name in ("WORD", "NODE", "WHERE", "COLOUR", "pre_colour", "CPU", "LATER")}
told |= {"mounted": read("/run/s/word"), "listed": sorted(os.listdir("/run/s")), "label": read("/run/d/tier"),
         "uid": os.getuid(), "groups": os.getgroups(), "mode": oct(os.stat("/run/s/word").st_mode), "cwd": os.getcwd(),
         "readonly": readonly, "hostname": os.uname().nodename, "pid": os.getpid(), "tmp": os.listdir("/tmp"),
         "shm": os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize,
         "ca": "BEGIN CERTIFICATE" in read("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")}
print(json.dumps(told))
"""
    container = {
        "command": ["python3", "-c", script],
        "workingDir": "/usr",
        "securityContext": {"readOnlyRootFilesystem": True},
        "resources": {"requests": {"cpu": "1500m"}},
        "envFrom": [{"configMapRef": {"name": "c"}, "prefix": "pre_"}],
        "env": [
            {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "word"}}},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "WHERE", "value": "$(IP):4710 $$(IP) $(LATER)"},
            {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "colour"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}},
            {"name": "LATER", "value": "yes"},
        ],
        "volumeMounts": [
            {"name": "secret", "mountPath": "/run/s"},
            {"name": "downward", "mountPath": "/run/d"},
            {"name": "scratch", "mountPath": "/scratch"},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }
    item = {"path": "tier", "fieldRef": {"fieldPath": "metadata.labels['tier']"}}
    volumes = [
        {
            "name": "secret",
            "secret": {"secretName": "s", "items": [{"key": "word", "path": "word"}], "defaultMode": 256},
        },
        {"name": "downward", "downwardAPI": {"items": [item]}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
    ]
    security = {"runAsUser": 1234, "runAsGroup": 1235, "fsGroup": 1236}
    end = await run(
        api, namespace, container=container, volumes=volumes, labels={"tier": "front"}, securityContext=security
    )
    logged = await kubectl("logs", "one")
    assert end["exitCode"] == 0, logged
    told = json.loads(logged)
    address = (await api.get(f"/api/v1/namespaces/{namespace}/pods/one"))["status"]["podIP"]
    assert told == {
        "WORD": "hush",
        "NODE": node,
        "WHERE": f"{address}:4710 $(IP) $(LATER)",
        "COLOUR": "blue",
        "pre_colour": "blue",
        "CPU": "2",
        "LATER": "yes",
        "mounted": "hush",
        "listed": ["word"],
        "label": "front",
        "uid": 1234,
        "groups": [1236],
        "mode": "0o100440",
        "cwd": "/usr",
        "readonly": True,
        "hostname": "one",
        "pid": 1,
        "tmp": [],
        "shm": 8 * 2**20,
        "ca": True,
    }


async def test_a_termination_message_and_an_exit_code_are_told(api: Api, namespace: str, node: str) -> None:
    end = await run(api, namespace, container=shell("echo why > /dev/termination-log; exit 3"))
    assert (end["exitCode"], end["reason"], end["message"]) == (3, "Error", "why\n")


async def test_a_command_that_is_not_there_is_a_start_error(api: Api, namespace: str, node: str) -> None:
    end = await run(api, namespace, container={"command": ["no-such-program"]})
    assert (end["exitCode"], end["reason"]) == (128, "StartError")
    assert "No such file" in end["message"]


async def test_init_containers_run_first_and_one_that_fails_fails_the_pod(api: Api, namespace: str, node: str) -> None:
    init = {"name": "first", "image": "system", **shell("exit 4")}
    await api.create(
        f"/api/v1/namespaces/{namespace}/pods",
        pod_with("one", restartPolicy="Never", initContainers=[init], container=shell("true")),
    )
    pod = await wait_for_pod(api, namespace, "one", lambda pod: pod["status"]["phase"] == "Failed", "failed")
    assert "waiting" in pod["status"]["containerStatuses"][0]["state"]
    assert pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 4


async def test_a_container_that_fails_is_started_again_where_the_policy_says_so(
    api: Api, namespace: str, node: str, kubectl: Tool
) -> None:
    script = "test -e /scratch/been && exit 0; echo first; touch /scratch/been; exit 1"
    container = {**shell(script), "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}
    volumes = [{"name": "scratch", "emptyDir": {}}]
    end = await run(api, namespace, container=container, volumes=volumes, restartPolicy="OnFailure")
    assert end["exitCode"] == 0
    pod = await api.get(f"/api/v1/namespaces/{namespace}/pods/one")
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 1
    assert await kubectl("logs", "one", "--previous") == "first\n"


async def test_a_deleted_pod_has_its_hook_then_sigterm_and_tells_its_end_before_it_is_gone(
    api: Api, namespace: str, node: str, kubectl: Tool
) -> None:
    script = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(7)); print('up', flush=True); time.sleep(99)"
    )
    hook = {"exec": {"command": ["sh", "-c", "echo hook > /dev/termination-log"]}}
    container = {"command": ["python3", "-c", script], "lifecycle": {"preStop": hook}}
    await api.create(f"/api/v1/namespaces/{namespace}/pods", pod_with("one", container=container))
    await wait_for_pod(api, namespace, "one", is_running, "running")
    await until(lambda: kubectl("logs", "one"), lambda told: "up" in told, "up")
    seen: list[Object] = []
    async with asyncio.timeout(20.0), aclosing(api.watch(f"/api/v1/namespaces/{namespace}/pods")) as changes:
        async for kind, pod in changes:
            if not seen:
                await api.delete(f"/api/v1/namespaces/{namespace}/pods/one")
            seen.append(pod)
            if kind == "DELETED":
                break
    ends = seen[-1]["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (seen[-1]["status"]["phase"], ends["exitCode"], ends["message"]) == ("Failed", 7, "hook\n")


async def test_a_process_that_ignores_sigterm_is_killed_when_its_grace_is_over(
    api: Api, namespace: str, node: str
) -> None:
    container = shell("trap '' TERM; while true; do sleep 0.1; done")
    await api.create(
        f"/api/v1/namespaces/{namespace}/pods", pod_with("one", container=container, terminationGracePeriodSeconds=1)
    )
    await wait_for_pod(api, namespace, "one", is_running, "running")
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await api.delete(f"/api/v1/namespaces/{namespace}/pods/one")
    await until(lambda: api.find(f"/api/v1/namespaces/{namespace}/pods/one"), lambda pod: pod is None, "gone")
    assert 1.0 <= loop.time() - began_s < 5.0


async def test_probes_make_a_pod_ready_and_restart_one_that_is_not_alive(api: Api, namespace: str, node: str) -> None:
    script = (
        "cd /tmp; touch livez readyz; sleep 2 && rm livez & cd /tmp && exec python3 -m http.server 8000 --bind 0.0.0.0"
    )
    quick = {"periodSeconds": 1, "failureThreshold": 1}
    container = {
        **shell(script),
        "ports": [{"containerPort": 8000, "name": "health"}],
        "startupProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1, "failureThreshold": 20},
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "health"}, **quick},
        "livenessProbe": {"exec": {"command": ["test", "-e", "/tmp/livez"]}, **quick},
    }
    # Two of them: each pod has all ports for itself.
    for name in ("one", "two"):
        made = pod_with(name, container=container, terminationGracePeriodSeconds=1)
        await api.create(f"/api/v1/namespaces/{namespace}/pods", made)
    for name in ("one", "two"):
        await wait_for_pod(api, namespace, name, is_ready, "ready")
    again = await wait_for_pod(
        api, namespace, "one", lambda pod: pod["status"]["containerStatuses"][0]["restartCount"] > 0, "restarted"
    )
    assert again["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] != 0


async def test_an_image_that_is_not_there_is_told_and_its_pod_can_be_deleted(
    api: Api, namespace: str, node: str
) -> None:
    await api.create(f"/api/v1/namespaces/{namespace}/pods", pod_with("one", container={"image": "nowhere/x:1"}))

    def pulls_in_vain(pod: Object) -> bool:
        statuses = pod["status"].get("containerStatuses", [{"state": {}}])
        return bool(statuses[0]["state"].get("waiting", {}).get("reason") == "ImagePullBackOff")

    await wait_for_pod(api, namespace, "one", pulls_in_vain, "in ImagePullBackOff")
    await api.delete(f"/api/v1/namespaces/{namespace}/pods/one")
    await until(lambda: api.find(f"/api/v1/namespaces/{namespace}/pods/one"), lambda pod: pod is None, "gone")


@pytest.mark.slow
async def test_a_lost_node_becomes_not_ready_and_its_pod_goes_on_in_words_only(
    api: Api, namespace: str, kubelet: Kubelet
) -> None:
    node = await kubelet.add("n1")
    await api.create(f"/api/v1/namespaces/{namespace}/pods", pod_with("one", container=shell("sleep 99")))
    await wait_for_pod(api, namespace, "one", is_running, "running")
    await kubelet.lose("n1")

    def is_tainted(found: Object | None) -> bool:
        return any(one["key"] == "node.kubernetes.io/unreachable" for one in (found or {})["spec"].get("taints", ()))

    await until(lambda: api.find(node.path), is_tainted, "unreachable")
    pod = await api.get(f"/api/v1/namespaces/{namespace}/pods/one")
    assert pod["status"]["phase"] == "Running"
    assert not is_ready(pod)


def shell(script: str) -> Object:
    return {"command": ["sh", "-c", script]}


def is_running(pod: Object) -> bool:
    return bool(pod["status"].get("phase") == "Running")


def is_ready(pod: Object) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))

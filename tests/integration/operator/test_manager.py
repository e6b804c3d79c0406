"""From what is seen to what is done, on a real API server and a real etcd; what is decided is as simple as can be."""

import asyncio
import copy
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest
import yaml

from harness.etcd.server import EtcdServer
from harness.kube.control_plane import ControlPlane
from harness.records import JOB
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.model.records import DrainRecord, NodeRecord
from holdfast.model.wire import decode, encode
from holdfast.ports.store import Put, Store
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJobStatus, Metadata
from holdfast_operator.api.v1alpha1.names import LABEL_JOB, config_name, job_id, pod_name, secret_name
from holdfast_operator.handlers.client import (
    CONFIG_MAPS,
    ELASTIC_JOBS,
    EVENTS,
    NODES,
    PODS,
    SECRETS,
    Cluster,
    Object,
)
from holdfast_operator.handlers.errors import LeadershipLostError, NotFoundError
from holdfast_operator.handlers.leading import LeaseSettings
from holdfast_operator.handlers.manager import Deciding, ManagerSettings
from holdfast_operator.handlers.operating import Operator, OperatorSettings
from holdfast_operator.reconcile.actions import (
    Action,
    ApplyConfig,
    CreatePod,
    CreateSecret,
    Decision,
    DrainNode,
    TellEvent,
    WriteStatus,
)
from holdfast_operator.reconcile.pods import owner_reference
from holdfast_operator.reconcile.snapshot import Snapshot
from integration.operator.conftest import ACCOUNTS, CRD, CRDS
from integration.operator.objects import WITHIN_S, elastic_job, pod, until, until_done, until_refused

pytestmark = [pytest.mark.kube, pytest.mark.slow]
HOST, TAINT = "host-of-{}", "cloud.google.com/impending-node-termination"


def reconcile(snapshot: Snapshot) -> Decision:
    """As many pods as may be, and a drain for each whose host has a taint."""
    return Decision(actions=tuple(_actions(snapshot)), look_again_s=None)


def _actions(snapshot: Snapshot) -> Iterator[Action]:
    job = snapshot.job
    name, there = job.metadata.name, {pod.index: pod for pod in snapshot.pods}
    if not snapshot.has_secret:
        yield CreateSecret(name=secret_name(name))
    if snapshot.config is None:
        yield ApplyConfig(name=config_name(name), spec="steps: 10\n")
    for view in snapshot.pods:
        host = snapshot.hosts.get(view.host)
        if host is not None and TAINT in {taint.key for taint in host.taints}:
            yield DrainNode(node=NodeId(view.name), grace_s=20.0, reason=TAINT)
    for index in itertools.takewhile(lambda index: index < job.spec.nodes.max, itertools.count()):
        if index not in there:
            owner = owner_reference(job.metadata)
            host_name = HOST.format(name) if index == 0 else ""
            yield CreatePod(name=pod_name(name, index), manifest=pod(name, index, owner=owner, host=host_name))
            yield TellEvent(type="Normal", reason="PodCreated", message=f"pod {index} was made")
    run = snapshot.run
    trouble = snapshot.store_trouble or " ".join(snapshot.refusals.values())
    status = ElasticJobStatus(
        phase=trouble or (run.state.value if run is not None else "new"),
        replicas=len(there),
        step=run.step if run is not None else None,
    )
    yield WriteStatus(status=status)


def invalid(job: Metadata, status: ElasticJobStatus, problem: str, now_s: float) -> ElasticJobStatus:
    return ElasticJobStatus(phase=f"wrong: {problem}"[:200])


def operator_of(plane: ControlPlane, namespace: str, identity: str) -> Operator:
    settings = OperatorSettings(
        manager=ManagerSettings(namespace=namespace, progress_s=0.2),
        lease=LeaseSettings(
            namespace=namespace, name="operator", identity=identity, duration_s=3.0, renew_s=2.0, retry_s=0.2
        ),
        host="127.0.0.1",
        port=0,
        kubeconfig=plane.kubeconfig,
    )
    return Operator(settings, Deciding(reconcile=reconcile, invalid=invalid))


@asynccontextmanager
async def operating(plane: ControlPlane, namespace: str, identity: str) -> AsyncIterator[Operator]:
    operator = operator_of(plane, namespace, identity)
    task = asyncio.create_task(operator.run())
    try:
        yield operator
    finally:
        task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), f"{identity} failed: {ended!r}"


async def asks(operator: Operator, path: str) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{operator.port}/{path}") as answer,
    ):
        assert answer.status == 200
        return await answer.text()


async def leads(operator: Operator) -> bool:
    return "holdfast_operator_is_leader 1.0" in await asks(operator, "metrics")


class Jobs:
    """What a test sees of a namespace."""

    def __init__(self, cluster: Cluster, namespace: str, endpoint: tuple[str, int]) -> None:
        self.cluster, self.namespace, self._endpoint = cluster, namespace, endpoint

    async def create(self, name: str, **spec: Any) -> Object:
        made = elastic_job(name, self._endpoint, **spec)
        return await self.cluster.create(ELASTIC_JOBS, self.namespace, made)

    async def pods(self, job: str) -> list[Object]:
        page = await self.cluster.list_page(PODS, self.namespace, {"labelSelector": f"{LABEL_JOB}={job}"})
        return list(page.items)

    async def status(self, name: str) -> Object:
        found: Object = (await self.cluster.get(ELASTIC_JOBS, self.namespace, name)).get("status") or {}
        return found

    async def shows(self, name: str, **status: object) -> None:
        await self._until(name, lambda shown: status.items() <= shown.items(), str(status))

    async def tells(self, name: str, words: str) -> None:
        await self._until(name, lambda shown: words in shown.get("phase", ""), words)

    async def _until(self, name: str, holds: Callable[[Object], bool], what: str) -> None:
        shown: Object = {}
        deadline_s = time.monotonic() + WITHIN_S
        while not holds(shown):
            assert time.monotonic() < deadline_s, f"{name} shows {shown}, not {what}"
            await asyncio.sleep(0.02)
            shown = await self.status(name)


@pytest.fixture
def jobs(cluster: Cluster, namespace: str, rendezvous_server: EtcdServer) -> Jobs:
    return Jobs(cluster, namespace, rendezvous_server.endpoint)


async def test_what_is_decided_is_done_once(plane: ControlPlane, jobs: Jobs, namespace: str) -> None:
    made = await jobs.create("a")
    async with operating(plane, namespace, "one"):
        await jobs.shows("a", replicas=2, phase="new")
    pods = await jobs.pods("a")
    assert [found["metadata"]["name"] for found in pods] == ["a-0", "a-1"]
    assert {found["metadata"]["ownerReferences"][0]["uid"] for found in pods} == {made["metadata"]["uid"]}
    secret = await jobs.cluster.get(SECRETS, namespace, secret_name("a"))
    assert len(secret["data"]["secret"]) > 64
    config = await jobs.cluster.get(CONFIG_MAPS, namespace, config_name("a"))
    assert config["data"] == {"spec.yaml": "steps: 10\n"}
    events = await jobs.cluster.list_page(EVENTS, namespace, {"fieldSelector": "reason=PodCreated"})
    assert [event["count"] for event in events.items] == [1, 1]


async def test_the_secret_outlives_the_operator(plane: ControlPlane, jobs: Jobs, namespace: str) -> None:
    await jobs.create("a")
    secrets = []
    for identity in ("one", "two"):
        async with operating(plane, namespace, identity):
            await jobs.shows("a", replicas=2)
        secrets.append((await jobs.cluster.get(SECRETS, namespace, secret_name("a")))["data"])
        for found in await jobs.pods("a"):
            uid = found["metadata"]["uid"]
            await jobs.cluster.delete(PODS, namespace, found["metadata"]["name"], uid=uid, grace_s=0)
    assert secrets[0] == secrets[1]


async def test_a_taint_is_a_drain_in_the_rendezvous_within_a_second(
    plane: ControlPlane, jobs: Jobs, namespace: str, store: Store
) -> None:
    node = HOST.format("noticed")
    await jobs.cluster.create(NODES, "", {"metadata": {"name": node}})
    made = await jobs.create("noticed")
    keys = Keys(job=job_id("noticed", made["metadata"]["uid"]))
    shown = NodeRecord(
        node=NodeId("noticed-0"), incarnation="first", host="h", port=1, domain="d", agent_pid=1, workers=()
    )
    agent = Put(key=keys.node(shown.node), value=encode(shown))
    await store.transact([], [Put(key=keys.one("spec"), value=encode(JOB)), agent])
    async with operating(plane, namespace, "one"):
        await jobs.shows("noticed", replicas=2, phase="starting")
        begun_s = time.monotonic()
        taint = {"key": TAINT, "effect": "NoSchedule"}
        await jobs.cluster.merge(NODES, "", node, {"spec": {"taints": [taint]}})
        held = None
        while held is None:
            held = await store.get(keys.drain(NodeId("noticed-0")))
            assert time.monotonic() < begun_s + 1.0, "no drain within a second"
    expected = DrainRecord(node=shown.node, grace_s=20.0, reason=TAINT, incarnation="first")
    assert decode(DrainRecord, held.value) == expected


async def test_the_run_is_seen_and_its_keys_go_with_the_job(
    plane: ControlPlane, jobs: Jobs, namespace: str, store: Store
) -> None:
    made = await jobs.create("a")
    uid = made["metadata"]["uid"]
    keys = Keys(job=job_id("a", uid))
    other = Keys(job="another").one("spec")
    await store.put(other, b"stays")
    async with operating(plane, namespace, "one"):
        await jobs.shows("a", phase="new")
        await store.put(keys.one("spec"), encode(JOB))
        await jobs.shows("a", phase="starting", step=0)
        await store.put(keys.claim(NodeId("a-0")), b"an agent lives")
        await jobs.cluster.delete(ELASTIC_JOBS, namespace, "a", uid=uid)
        await asyncio.sleep(0.3)
        assert await store.get(keys.one("spec")), "taken away from under an agent"
        await store.delete(keys.claim(NodeId("a-0")))
        deadline_s = time.monotonic() + WITHIN_S
        while (await store.get_prefix(keys.prefix)).kvs:
            assert time.monotonic() < deadline_s, "its keys are still there"
    assert await store.get(other)


async def test_a_pod_that_is_refused_is_told_and_made_once_it_may_be(
    plane: ControlPlane, jobs: Jobs, namespace: str
) -> None:
    account = await jobs.cluster.get(ACCOUNTS, namespace, "default")
    await jobs.cluster.delete(ACCOUNTS, namespace, "default", uid=account["metadata"]["uid"])
    names = (f"probe-{number}" for number in itertools.count())
    await until_refused(lambda: jobs.cluster.create(PODS, namespace, pod(next(names), 0)), "the account is gone")
    await jobs.create("a")
    async with operating(plane, namespace, "one"):
        await jobs.tells("a", f"error looking up service account {namespace}/default")
        await jobs.cluster.create(ACCOUNTS, namespace, {"metadata": {"name": "default"}})
        await jobs.shows("a", replicas=2, phase="new")


async def test_while_its_rendezvous_is_away_a_job_says_so(plane: ControlPlane, jobs: Jobs, namespace: str) -> None:
    await jobs.create("lost", rendezvous={"endpoints": ["127.0.0.1:1"]})
    await jobs.create("found")
    async with operating(plane, namespace, "one"):
        await jobs.shows("found", phase="new")
        await jobs.tells("lost", "127.0.0.1:1")


async def test_a_missing_secret_of_the_rendezvous_is_named(plane: ControlPlane, jobs: Jobs, namespace: str) -> None:
    rendezvous = {"endpoints": ["127.0.0.1:1"], "credentialsSecret": {"name": "not-there"}}
    await jobs.create("a", rendezvous=rendezvous)
    async with operating(plane, namespace, "one"):
        message = "spec.rendezvous.credentialsSecret: Secret {}/not-there does not exist; create it, with username and "
        await jobs.shows("a", phase=f"{message.format(namespace)}password")


async def test_the_second_replica_waits_and_goes_on_where_the_first_ended(
    plane: ControlPlane, jobs: Jobs, namespace: str
) -> None:
    await jobs.create("a")
    async with AsyncExitStack() as both:
        async with operating(plane, namespace, "one") as first:
            await jobs.shows("a", replicas=2)
            second = await both.enter_async_context(operating(plane, namespace, "two"))
            await until(lambda: second.port is not None, "the second one listens")
            assert [await leads(first), await leads(second)] == [True, False]
            assert await asks(second, "readyz") == "ok\n"
        await jobs.create("b")
        await jobs.shows("b", replicas=2)
        assert await leads(second)
    assert [len(await jobs.pods(name)) for name in ("a", "b")] == [2, 2]


async def test_an_operator_that_cannot_renew_its_lease_ends_and_the_next_one_makes_no_pod_twice(
    plane: ControlPlane, jobs: Jobs, namespace: str
) -> None:
    await jobs.create("a")
    lost = asyncio.create_task(operator_of(plane, namespace, "one").run())
    await jobs.shows("a", replicas=2)
    uids = {found["metadata"]["uid"] for found in await jobs.pods("a")}
    await asyncio.to_thread(plane.stop_api)
    try:
        with pytest.raises(LeadershipLostError):
            await asyncio.wait_for(lost, WITHIN_S)
    finally:
        await asyncio.to_thread(plane.start_api)
    async with operating(plane, namespace, "two"):
        await jobs.create("b")
        await jobs.shows("b", replicas=2)
    assert {found["metadata"]["uid"] for found in await jobs.pods("a")} == uids


async def test_a_job_that_an_earlier_schema_let_pass_says_what_is_wrong(
    plane: ControlPlane, jobs: Jobs, namespace: str
) -> None:
    crd = yaml.safe_load(CRD.read_text(encoding="utf-8"))
    name, lax = crd["metadata"]["name"], copy.deepcopy(crd)
    schema = lax["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["spec"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    try:
        await jobs.cluster.apply(CRDS, "", name, lax)
        await until_done(lambda: jobs.create("a", nodes={"max": 2, "min": 3}), "the schema lets it pass")
    finally:
        await jobs.cluster.apply(CRDS, "", name, crd)
    names = (f"probe-{number}" for number in itertools.count())
    await until_refused(lambda: jobs.create(next(names), nodes={"max": 2, "min": 3}), "the schema is back")
    async with operating(plane, namespace, "one"):
        await jobs.tells("a", "wrong: spec.nodes.max: should be at least min")
    with pytest.raises(NotFoundError):
        await jobs.cluster.get(SECRETS, namespace, secret_name("a"))

"""What is carried out against a real API server, one action at a time."""

import pytest

from holdfast_operator.api.v1alpha1.elastic_job import ElasticJobStatus, Metadata
from holdfast_operator.handlers.client import EVENTS, PODS, Cluster, Object
from holdfast_operator.handlers.errors import LeadershipLostError, NotFoundError
from holdfast_operator.handlers.events import Events
from holdfast_operator.handlers.executing import Executor, Known, Pass
from holdfast_operator.handlers.expectations import Expectations
from holdfast_operator.handlers.metrics import OperatorMetrics
from holdfast_operator.handlers.rendezvous import Rendezvous
from holdfast_operator.handlers.tasks import Tasks
from holdfast_operator.reconcile.actions import CreatePod, DeletePod, TellEvent
from integration.operator.objects import pod

pytestmark = [pytest.mark.kube, pytest.mark.slow]
_EVENT = TellEvent(type="Warning", reason="Lost", message="a-0 is lost")


def metadata(namespace: str) -> Metadata:
    return Metadata(name="a", namespace=namespace, uid="1234", created_s=0.0)


class Acting:
    """An executor for the job `a`, and whether it may act."""

    def __init__(self, cluster: Cluster, namespace: str, metrics: OperatorMetrics) -> None:
        self.may_act = True
        rendezvous = Rendezvous(cluster, Tasks(), lambda job, is_news: None)
        expectations = Expectations(shown=lambda job: None)
        self.executor = Executor(cluster, rendezvous, expectations, metrics, lambda: self.may_act)
        known = Known(uid="1234", generation=1)
        self.doing = Pass(job=metadata(namespace), status=ElasticJobStatus(), seen_s=0.0, known=known)


@pytest.fixture
async def acting(cluster: Cluster, namespace: str, metrics: OperatorMetrics) -> Acting:
    return Acting(cluster, namespace, metrics)


async def events_of(cluster: Cluster, namespace: str) -> list[Object]:
    return list((await cluster.list_page(EVENTS, namespace, {})).items)


async def test_an_event_told_again_is_counted_up_also_by_another_replica(cluster: Cluster, namespace: str) -> None:
    job, events = metadata(namespace), Events(cluster)
    for now_s in (1000.0, 1001.0, 1002.0):
        await events.tell(job, _EVENT, now_s)
    (found,) = await events_of(cluster, namespace)
    assert found["count"] == 1  # the others wait to be written together
    await events.tell(job, _EVENT, 1100.0)
    (found,) = await events_of(cluster, namespace)
    assert found["count"] == 4
    assert (found["reason"], found["message"], found["involvedObject"]["uid"]) == ("Lost", "a-0 is lost", "1234")
    await Events(cluster).tell(job, _EVENT, 1200.0)
    (found,) = await events_of(cluster, namespace)
    assert (found["count"], found["lastTimestamp"]) == (5, "1970-01-01T00:20:00Z")


async def test_events_that_differ_are_told_apart(cluster: Cluster, namespace: str) -> None:
    events = Events(cluster)
    await events.tell(metadata(namespace), _EVENT, 1000.0)
    await events.tell(metadata(namespace), TellEvent(type="Warning", reason="Lost", message="a-1 is lost"), 1000.0)
    assert len(await events_of(cluster, namespace)) == 2


async def test_who_does_not_lead_does_nothing(acting: Acting, cluster: Cluster, namespace: str) -> None:
    acting.may_act = False
    with pytest.raises(LeadershipLostError):
        await acting.executor.execute((CreatePod(name="a-0", manifest=pod("a", 0)),), acting.doing)
    with pytest.raises(NotFoundError):
        await cluster.get(PODS, namespace, "a-0")


async def test_every_action_may_be_done_again(acting: Acting, cluster: Cluster, namespace: str) -> None:
    create = CreatePod(name="a-0", manifest=pod("a", 0))
    assert await acting.executor.execute((create,), acting.doing)
    assert not await acting.executor.execute((create,), acting.doing)  # until it is seen
    assert not acting.doing.known.refusals
    uid = (await cluster.get(PODS, namespace, "a-0"))["metadata"]["uid"]
    delete = DeletePod(name="a-0", uid=uid, grace_s=0)
    assert await acting.executor.execute((delete, delete), acting.doing)
    with pytest.raises(NotFoundError):
        await cluster.get(PODS, namespace, "a-0")


async def test_a_pod_of_another_uid_is_left_alone(acting: Acting, cluster: Cluster, namespace: str) -> None:
    await cluster.create(PODS, namespace, pod("a", 0))
    assert await acting.executor.execute((DeletePod(name="a-0", uid="earlier", grace_s=0),), acting.doing)
    assert await cluster.get(PODS, namespace, "a-0")


async def test_what_refused_one_pod_is_not_asked_for_the_next(acting: Acting, cluster: Cluster, namespace: str) -> None:
    wrong = pod("a", 0)
    wrong["spec"]["containers"][0] = {"name": "holdfast"}
    actions = (
        CreatePod(name="a-0", manifest=wrong),
        CreatePod(name="a-1", manifest=pod("a", 1)),
        _EVENT,
    )
    assert not await acting.executor.execute(actions, acting.doing)
    assert "spec.containers[0].image: Required value" in acting.doing.known.refusals["Pod/a-0"]
    assert not (await cluster.list_page(PODS, namespace, {})).items
    assert len(await events_of(cluster, namespace)) == 1
    assert await acting.executor.execute((CreatePod(name="a-0", manifest=pod("a", 0)),), acting.doing)
    assert not acting.doing.known.refusals

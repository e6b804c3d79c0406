"""What is done where a part of it cannot be; the cluster answers as the API server does, and keeps what it was told."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from holdfast.errors import StoreError, StoreUnavailableError
from holdfast.model.ids import NodeId
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJobStatus, Metadata
from holdfast_operator.handlers.client import Cluster, Object, Resource
from holdfast_operator.handlers.errors import ExistsError, NotFoundError, StaleError
from holdfast_operator.handlers.executing import Executor, Known, Pass
from holdfast_operator.handlers.expectations import Expectations
from holdfast_operator.handlers.metrics import OperatorMetrics
from holdfast_operator.handlers.rendezvous import Rendezvous
from holdfast_operator.reconcile.actions import (
    Action,
    CancelDrain,
    CreatePod,
    CreateSecret,
    DeletePod,
    DrainNode,
    WriteStatus,
)

JOB = Metadata(name="a", namespace="ns", uid="u", resource_version="7", created_s=0.0)
DRAINS = (
    DrainNode(node=NodeId("a-0"), grace_s=1.0, reason="a taint"),
    DrainNode(node=NodeId("a-1"), grace_s=1.0, reason="a taint"),
    CancelDrain(node=NodeId("a-2")),
)
STATUS = WriteStatus(status=ElasticJobStatus(phase="Running"))
POD = CreatePod(name="a-3", manifest={"metadata": {"name": "a-3"}})
SECRET = CreateSecret(name="a-holdfast")


class Objects:
    """A cluster of nothing but names."""

    def __init__(self) -> None:
        self.there: dict[str, Object] = {}

    async def create(self, resource: Resource, namespace: str, body: Object) -> Object:
        name = f"{resource.plural}/{body['metadata']['name']}"
        if name in self.there:
            raise ExistsError(f"{name} already exists (409)")
        self.there[name] = body
        return body

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        return self._found(f"{resource.plural}/{name}")

    async def merge(self, resource: Resource, namespace: str, name: str, body: Object, subresource: str) -> Object:
        found = self._found(f"{resource.plural}/{name}")
        found[subresource] = body[subresource]
        return found

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str, grace_s: int | None) -> Object:
        return self.there.pop(f"{resource.plural}/{name}")

    def _found(self, name: str) -> Object:
        if name not in self.there:
            raise NotFoundError(f"{name} not found (404)")
        return self.there[name]


@dataclass
class Drains:
    """A rendezvous that reads, and that writes once `trouble` is None."""

    trouble: StoreError | None = None
    tried: list[str] = field(default_factory=list)

    async def drain(self, job: object, node: NodeId, grace_s: float, reason: str) -> bool:
        return await self.cancel_drain(job, node)

    async def cancel_drain(self, job: object, node: NodeId) -> bool:
        self.tried.append(node)
        if self.trouble is not None:
            raise self.trouble
        return True


class Acting:
    """An executor for the job `a`."""

    def __init__(self) -> None:
        self.objects, self.drains, self.known = Objects(), Drains(), Known(uid="u", generation=1)
        self.objects.there["elasticjobs/a"] = {"metadata": {"name": "a"}}
        expectations = Expectations(shown=lambda job: None)
        self.executor = Executor(
            cast(Cluster, self.objects), cast(Rendezvous, self.drains), expectations, OperatorMetrics(), lambda: True
        )

    async def does(self, *actions: Action, **more: Any) -> bool:
        doing = Pass(job=JOB, status=ElasticJobStatus(), seen_s=0.0, known=self.known, **more)
        return await self.executor.execute(actions, doing)


@pytest.fixture
def acting() -> Acting:
    return Acting()


@pytest.mark.parametrize("kind", [StoreUnavailableError, StoreError])
async def test_a_rendezvous_that_takes_no_drain_keeps_nothing_else_from_being_done(
    acting: Acting, kind: Callable[[str], StoreError]
) -> None:
    acting.drains.trouble = kind("no space")
    acting.objects.there["pods/a-4"] = {"metadata": {"name": "a-4"}}
    assert not await acting.does(*DRAINS, STATUS, DeletePod(name="a-4", uid="x"), POD)
    assert acting.known.refusals == {"Drain/a-0": "no space"}
    assert acting.drains.tried == ["a-0"]  # each would be waited for
    assert acting.objects.there.keys() == {"elasticjobs/a", "pods/a-3"}
    assert acting.objects.there["elasticjobs/a"]["status"]["phase"] == "Running"
    acting.drains.trouble = None
    assert await acting.does(*DRAINS)
    assert not acting.known.refusals


async def test_a_refusal_is_forgotten_with_what_was_refused(acting: Acting) -> None:
    acting.drains.trouble = StoreError("no space")
    assert not await acting.does(*DRAINS)
    assert not await acting.does(STATUS)  # it was decided upon with the refusal
    assert not acting.known.refusals
    assert await acting.does(STATUS)


def secret(owner: str, **data: str) -> Object:
    return {"metadata": {"name": SECRET.name, "ownerReferences": [{"uid": owner}]}, "data": data}


async def test_a_secret_of_this_job_that_is_there_is_kept(acting: Acting) -> None:
    acting.objects.there["secrets/a-holdfast"] = there = secret("u", secret="eA==")
    assert await acting.does(SECRET, POD)
    assert acting.objects.there["secrets/a-holdfast"] is there
    assert acting.known.has_secret


@pytest.mark.parametrize(
    ("found", "words"),
    [(secret("an earlier job", secret="eA=="), "not this job's"), (secret("u"), "no entry `secret`")],
)
async def test_no_pod_is_made_with_a_secret_that_is_not_the_jobs(acting: Acting, found: Object, words: str) -> None:
    acting.objects.there["secrets/a-holdfast"] = found
    assert not await acting.does(SECRET, POD)
    assert words in acting.known.refusals["Secret/a-holdfast"]
    assert "pods/a-3" not in acting.objects.there
    assert not acting.known.has_secret
    del acting.objects.there["secrets/a-holdfast"]  # as the control plane does with what an earlier job owned
    assert await acting.does(SECRET, POD)
    assert not acting.known.refusals
    assert acting.objects.there.keys() >= {"secrets/a-holdfast", "pods/a-3"}


async def test_a_secret_that_goes_while_it_is_looked_at_is_tried_again(
    acting: Acting, monkeypatch: pytest.MonkeyPatch
) -> None:
    acting.objects.there["secrets/a-holdfast"] = secret("an earlier job")

    def gone(name: str) -> Object:
        raise NotFoundError(name)

    monkeypatch.setattr(acting.objects, "_found", gone)
    with pytest.raises(StaleError):
        await acting.does(SECRET)


async def test_while_pods_run_no_second_secret_is_made(acting: Acting) -> None:
    assert not await acting.does(SECRET, POD, is_running=True)
    assert "pods run that hold it" in acting.known.refusals["Secret/a-holdfast"]
    assert acting.objects.there.keys() == {"elasticjobs/a"}
    acting.objects.there["secrets/a-holdfast"] = secret("u", secret="eA==")
    assert await acting.does(SECRET, POD, is_running=True)


async def test_a_pod_that_has_the_name_and_is_never_seen_is_told_of_and_keeps_no_other_from_being_made(
    acting: Acting,
) -> None:
    acting.objects.there["pods/a-3"] = {"metadata": {"name": "a-3"}}
    other = CreatePod(name="a-4", manifest={"metadata": {"name": "a-4"}})
    assert not await acting.does(POD)
    assert not acting.known.refusals  # it may be one that is not seen yet
    assert not await acting.does(POD, other)
    assert "belongs to something else" in acting.known.refusals["Pod/a-3"]
    assert "pods/a-4" in acting.objects.there
    del acting.objects.there["pods/a-3"]
    assert await acting.does(POD)
    assert not acting.known.refusals


async def test_a_pod_that_is_seen_after_all_was_in_nobodys_way(acting: Acting) -> None:
    acting.objects.there["pods/a-3"] = {"metadata": {"name": "a-3"}}
    assert not await acting.does(POD)
    assert await acting.does(STATUS)
    assert not acting.known.met


async def test_nothing_is_done_about_a_job_that_is_gone(acting: Acting) -> None:
    del acting.objects.there["elasticjobs/a"]
    with pytest.raises(StaleError):
        await acting.does(STATUS, POD)
    assert not acting.objects.there

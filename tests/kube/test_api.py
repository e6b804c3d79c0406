"""`ElasticJob` at a real API server: wrong ones are refused by name, what is fixed stays, kubectl shows and scales."""

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from harness.kube.api import Api, ApiError
from harness.kube.control_plane import ControlPlane
from harness.kube.pods import until
from harness.kube.tools import Tool, kubectl_program
from holdfast_operator.api.v1alpha1.crd import NAME, crd
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJobSpec
from kube.corpus import BASE, CORPUS, Wrong, merged

pytestmark = pytest.mark.kube

EXAMPLES: list[dict[str, Any]] = [
    yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).parents[2] / "examples" / "kubernetes").glob("*.yaml"))
]
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
JOBS = "/apis/holdfast.dev/v1alpha1/namespaces/default/elasticjobs"
# What it would do, and no field that it does not know: as kubectl asks.
TRIED = "?dryRun=All&fieldValidation=Strict"
STRICT = "?fieldValidation=Strict"


# Values of fields that rules hold together, right and wrong ones; None: left out.
CHOICES: dict[str, list[Any]] = {
    "program": [None, {"entry": "gpt.py:program"}, {"entry": "gpt.py:program"}],
    "command": [None, None, ["train"]],
    "steps": [None, 40, 40],
    "batch.size": [None, None, 48, 50],
    "batch.microbatch": [None, None, 6],
    "batch.block": [None, 2, 3],
    "nodes.min": [None, 1, 3],
    "nodes.max": [2, 4, 8],
    "nodes.desired": [None, 1, 3, 5],
    "timeouts.orphan": [None, 2, 3.0, 3.5],
    "rendezvous.endpoints": [["etcd:2379"], ["[::1]:65535", "e:1"], ["e:65536"]],
    "state.url": [None, "s3://b/a:b@c", "s3://u:p@b/c", "abfs://c@d/e", "memory://x"],
    "restartPolicy.backoff": [None, 299.5, 301],
    "restartPolicy.backoffMax": [None, 300],
    "template.spec.containers": [
        [{"name": "holdfast"}],
        [{"name": "holdfast", "env": [{"name": "HOLDFAST_RAM"}], "volumeMounts": [{"mountPath": "/run/holdfast2"}]}],
        [{"name": "holdfast", "env": [{"name": "HOLDFAST_JOB"}]}],
        [{"name": "holdfast", "args": []}, {"name": "beside", "command": ["sleep"]}],
        [{"name": "beside"}],
        [{"name": "beside", "volumeMounts": [{"mountPath": "/run/holdfast"}]}, {"name": "holdfast"}],
    ],
}


def chosen(random: Random) -> dict[str, Any]:
    """A manifest with, of a few fields, any of their values."""
    patch: dict[str, Any] = {}
    for path in random.sample(sorted(CHOICES), k=4):
        *folders, name = path.split(".")
        below = patch
        for folder in folders:
            below = below.setdefault(folder, {})
        below[name] = random.choice(CHOICES[path])
    return merged(BASE, {"spec": patch})


@pytest.fixture
async def jobs(api: Api) -> AsyncIterator[Api]:
    """An API server that knows the kind; afterwards there is no job. The CRD stays as it was found."""
    found = await api.find(f"{CRDS}/{NAME}")
    if found is None:
        await api.create(CRDS, crd())
    await until(lambda: api.find(JOBS), lambda listed: listed is not None, "served")
    yield api
    for job in await api.items(JOBS):
        await api.delete(f"{JOBS}/{job['metadata']['name']}")
    if found is None:
        await api.delete(f"{CRDS}/{NAME}")
        await until(lambda: api.find(f"{CRDS}/{NAME}"), lambda left: left is None, "gone")


async def refusals(jobs: Api, wrong: Wrong) -> str:
    if wrong.by != "change":
        with pytest.raises(ApiError) as refusal:
            await jobs.create(JOBS + TRIED, wrong.manifest())
        return str(refusal.value)
    made = await jobs.create(JOBS + STRICT, wrong.original())
    changed = wrong.manifest()
    changed["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"]
    with pytest.raises(ApiError) as refusal:
        await jobs.replace(f"{JOBS}/wrong{TRIED}", changed)
    await jobs.delete(f"{JOBS}/wrong")
    return str(refusal.value)


async def test_every_wrong_manifest_is_refused_with_the_field_and_what_would_be_right(jobs: Api) -> None:
    told = {wrong.name: await refusals(jobs, wrong) for wrong in CORPUS if wrong.by != "condition"}

    assert len(told) >= 40
    vague = {
        wrong.name: told[wrong.name]
        for wrong in CORPUS
        if wrong.name in told and not (wrong.field in told[wrong.name] and wrong.words in told[wrong.name])
    }
    assert not vague


async def test_a_rule_says_the_same_in_cel_and_in_python(jobs: Api) -> None:
    random, taken = Random(7), 0
    for _ in range(300):
        manifest = chosen(random)
        here = there = "taken"
        try:
            ElasticJobSpec.model_validate(manifest["spec"])
        except ValidationError as error:
            here = str(error)
        try:
            await jobs.create(JOBS + TRIED, manifest)
        except ApiError as error:
            there = str(error)
        taken += there == "taken"
        assert (here == "taken") == (there == "taken"), (manifest["spec"], here, there)

    assert 50 < taken < 250


async def test_what_is_right_is_taken_and_so_is_what_only_a_condition_can_refuse(jobs: Api) -> None:
    await jobs.create(JOBS + TRIED, BASE)
    for wrong in CORPUS:
        if wrong.by == "condition":
            await jobs.create(JOBS + TRIED, wrong.manifest())


async def test_the_crd_is_structural_and_its_names_are_accepted(jobs: Api) -> None:
    found = await jobs.get(f"{CRDS}/{NAME}")

    states = {condition["type"]: condition["status"] for condition in found["status"]["conditions"]}
    assert states == {"NamesAccepted": "True", "Established": "True"}  # NonStructuralSchema would stand here


async def test_every_example_is_taken_and_its_defaults_are_filled_in(jobs: Api) -> None:
    assert EXAMPLES
    for manifest in EXAMPLES:
        made = await jobs.create(JOBS + TRIED, manifest)
        assert made["spec"]["timeouts"]["leaseTtl"] == 3


async def test_a_job_is_scaled_within_its_bounds_and_shows_what_it_does(jobs: Api, control_plane: ControlPlane) -> None:
    kubectl = Tool(kubectl_program(), control_plane.kubeconfig, "default")
    await jobs.create(JOBS, BASE)

    await kubectl("scale", "ej", "wrong", "--replicas=4")
    assert (await jobs.get(f"{JOBS}/wrong"))["spec"]["nodes"]["desired"] == 4
    assert "should be at most max" in await kubectl("scale", "ej", "wrong", "--replicas=5", code=1)
    assert "should be at least min" in await kubectl("scale", "ej", "wrong", "--replicas=1", code=1)

    # Without a wish there is no replicas to read, and yet kubectl sets one.
    await jobs.patch(f"{JOBS}/wrong", {"spec": {"nodes": {"desired": None}}})
    await kubectl("scale", "ej", "wrong", "--replicas=2")
    status = {"phase": "Running", "progress": "3/40", "nodes": {"ready": 1, "desired": 2}, "replicas": 2}
    await jobs.patch(f"{JOBS}/wrong/status", {"status": status})
    assert (await jobs.get(f"{JOBS}/wrong/scale"))["status"]["replicas"] == 2
    row = (await kubectl("get", "ej", "--no-headers")).split()
    assert row[:5] == ["wrong", "Running", "3/40", "1", "2"]
    assert "elasticjob.holdfast.dev/wrong" in await kubectl("get", "all")


async def test_a_status_does_not_change_the_spec_nor_a_spec_the_status(jobs: Api) -> None:
    made = await jobs.create(JOBS, BASE | {"status": {"phase": "Complete"}})
    assert "status" not in made

    patched = await jobs.patch(f"{JOBS}/wrong/status", {"spec": {"suspend": True}, "status": {"phase": "Running"}})
    assert (patched["spec"]["suspend"], patched["status"]["phase"]) == (False, "Running")
    assert patched["metadata"]["generation"] == 1

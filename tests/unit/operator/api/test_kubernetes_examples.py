"""The manifests in examples/kubernetes: each is a job that the operator can work on, as its comments say."""

import re
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # its stubs are a package of their own
import pytest
import yaml

from holdfast.program import load_program, with_batch
from holdfast.spec import load_spec
from holdfast_operator.api.v1alpha1.crd import root_schema
from holdfast_operator.api.v1alpha1.job_spec import job_spec_yaml
from unit.operator.api.conftest import parse

ROOT = Path(__file__).parents[4]
MANIFESTS = sorted((ROOT / "examples" / "kubernetes").glob("*.yaml"))
ETCD_OF_THE_CHART = "holdfast-etcd.holdfast-system.svc:2379"


def manifest(path: Path) -> dict[str, Any]:
    (only,) = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    return {**only, "metadata": {"namespace": "default", **only["metadata"]}}


def test_every_platform_has_its_example() -> None:
    assert [path.stem for path in MANIFESTS] == ["eks-spot-karpenter", "gke-spot", "gpt-tiny", "kueue", "local-kind"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_an_example_is_a_job_that_the_runtime_takes(path: Path, tmp_path: Path) -> None:
    jsonschema.Draft4Validator(root_schema()).validate(manifest(path))
    text = job_spec_yaml(parse(manifest(path)))

    assert text is not None
    (tmp_path / "spec.yaml").write_text(text, encoding="utf-8")
    spec = load_spec(tmp_path / "spec.yaml")
    # As in the worker's image, whose working directory has the examples.
    program = load_program(spec.program.entry, dict(spec.program.params), ROOT)
    assert with_batch(program, spec.batch.size, spec.batch.microbatch).blocks(spec.block) >= 8


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_an_example_begins_by_saying_what_it_is_for_and_holds_no_secret(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert text.startswith("# ")
    secrets = re.findall(r"(?:password|SECRET_ACCESS_KEY|ACCESS_KEY_ID)=(\S+)", text)
    assert set(secrets) <= {"..."}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_an_example_asks_for_as_many_gpus_as_it_has_slots(path: Path) -> None:
    spec = parse(manifest(path)).spec
    (agent,) = spec.template["spec"]["containers"]

    assert agent["resources"]["limits"].get("nvidia.com/gpu", 1) == spec.slots_per_node
    assert ("nvidia.com/gpu" in agent["resources"]["limits"]) == (spec.device == "cuda")


def test_the_tiny_gpt_is_the_one_that_runs_without_kubernetes() -> None:
    job = parse(manifest(ROOT / "examples/kubernetes/gpt-tiny.yaml"))
    alone = load_spec(ROOT / "examples/gpt/tiny.yaml")

    assert job.spec.program is not None
    assert job.spec.program.params == alone.program.params
    assert (job.spec.steps, job.spec.layout.depth) == (alone.steps, alone.layout.depth)
    assert job.spec.nodes.desired == 4
    assert job.spec.rendezvous.endpoints == (ETCD_OF_THE_CHART,)


def test_the_tiny_gpts_storage_needs_only_to_be_uncommented() -> None:
    text = (ROOT / "examples/kubernetes/gpt-tiny.yaml").read_text(encoding="utf-8")
    plain, stored = (yaml.safe_load(one) for one in (text, re.sub(r"(?m)^( +)# ", r"\1", text)))

    jsonschema.Draft4Validator(root_schema()).validate(stored)
    (agent,), (volume,) = (
        stored["spec"]["template"]["spec"]["containers"],
        stored["spec"]["template"]["spec"]["volumes"],
    )
    (mount,) = agent["volumeMounts"]
    assert volume["name"] == mount["name"]
    assert stored["spec"]["state"]["url"].startswith(f"file://{mount['mountPath']}/")
    assert plain["spec"].keys() == stored["spec"].keys() - {"state"}

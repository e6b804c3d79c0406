"""A manifest or a job spec becomes the ElasticJob that is submitted; what is wrong is told before that."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from holdfast.errors import UserError
from holdfast_operator.api.v1alpha1.job_spec import job_spec_yaml
from holdfast_operator.api.v1alpha1.parse import parse_job
from holdfast_operator.cli.manifest import Choice, namespace_in, parse_nodes, read_manifest

SPEC: dict[str, Any] = {
    "name": "toy",
    "program": {"entry": "toy.py:program", "params": {"width": 8, "deep": {"er": [1, None]}}},
    "steps": 12,
    "batch": {"size": 16},
    "block": 2,
    "nodes": {"min": 2, "desired": 3},
    "layout": {"depth": 2, "memory_per_slot_bytes": "2GiB"},
    "timeouts": {"lease_ttl_s": 2.0, "drain_s": 40.0},
    "checkpoints": {"url": "s3://bucket/toy", "every": 7},
}
CHOICE = Choice(image="toy:1", etcd=("etcd:2379",))


def written(folder: Path, tree: dict[str, Any]) -> Path:
    path = folder / "file.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def manifest_of(folder: Path, **fields: Any) -> dict[str, Any]:
    return read_manifest(written(folder, {**SPEC, **fields}), CHOICE, "team")


def test_a_job_spec_comes_back_from_the_elastic_job_as_it_was(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path)

    assert manifest["metadata"] == {"name": "toy", "namespace": "team"}
    assert manifest["spec"]["nodes"] == {"min": 2, "desired": 3, "max": 3}
    assert manifest["spec"]["template"]["spec"]["containers"] == [{"name": "holdfast", "image": "toy:1"}]
    added = {"uid": "12345678-0000", "creationTimestamp": "2026-01-01T00:00:00Z"}
    back = yaml.safe_load(job_spec_yaml(parse_job({**manifest, "metadata": manifest["metadata"] | added})) or "")
    for section in ("program", "steps", "batch", "block"):
        assert back[section] == SPEC[section]
    assert back["layout"] == {"depth": 2, "memory_per_slot_bytes": str(2 << 30), "adaptive": True}
    assert (back["timeouts"]["lease_ttl_s"], back["timeouts"]["drain_s"]) == (2.0, 40.0)
    assert (back["checkpoints"]["url"], back["checkpoints"]["every"]) == ("s3://bucket/toy", 7)


def test_what_the_spec_leaves_out_is_left_to_the_cluster(tmp_path: Path) -> None:
    path = written(tmp_path, {"name": "a", "program": {"entry": "m:f"}, "steps": 1, "nodes": {"max": 2}})
    spec = read_manifest(path, CHOICE, "team")["spec"]
    assert spec.keys() == {"program", "steps", "nodes", "rendezvous", "template"}


def test_options_stand_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, manifest_of(tmp_path))
    choice = Choice(
        name="other", image="toy:2", nodes=(1, 8), etcd=("a:1", "b:2"), state="s3://b/x", gpus=4, cpu="2", memory="8Gi"
    )
    manifest = read_manifest(path, choice, "team")

    assert manifest["metadata"]["name"] == "other"
    spec = manifest["spec"]
    assert spec["nodes"] == {"min": 1, "desired": 3, "max": 8}
    assert spec["rendezvous"]["endpoints"] == ["a:1", "b:2"]
    assert (spec["state"]["url"], spec["slotsPerNode"]) == ("s3://b/x", 4)
    (container,) = spec["template"]["spec"]["containers"]
    assert container["image"] == "toy:2"
    assert container["resources"] == {
        "limits": {"nvidia.com/gpu": 4, "memory": "8Gi"},
        "requests": {"cpu": "2", "memory": "8Gi"},
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps: 0 given"),
        ({"failures": {"node_losses": 2}}, "does not have these fields of a job spec: failures.node_losses; leave"),
        ({"nodes": {"min": 1}}, "spec.nodes.max: "),
        ({"stepz": 3}, "did you mean steps"),
    ],
)
def test_a_wrong_job_spec_is_refused_by_its_fields(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        manifest_of(tmp_path, **fields)


def test_every_wrong_field_of_a_manifest_is_told(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path)
    manifest["spec"]["nodes"]["max"] = 1
    manifest["spec"]["stepss"] = 3
    with pytest.raises(UserError, match=r"(?s)spec\.(nodes|stepss).*spec\.(nodes|stepss)"):
        read_manifest(written(tmp_path, manifest), CHOICE, "team")


def test_modes_of_files_are_octal_as_kubectl_reads_them(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path)
    secret = {"secretName": "s", "defaultMode": "MODE"}
    manifest["spec"]["template"]["spec"]["volumes"] = [{"name": "s", "secret": secret}]
    path = written(tmp_path, manifest)
    path.write_text(path.read_text().replace("MODE", "0440"))
    (volume,) = read_manifest(path, CHOICE, "team")["spec"]["template"]["spec"]["volumes"]
    assert volume["secret"]["defaultMode"] == 0o440


def test_a_job_spec_needs_an_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--image: missing"):
        read_manifest(written(tmp_path, SPEC), Choice(etcd=("a:1",)), "team")


def test_a_file_in_another_namespace_than_was_asked_for_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, manifest_of(tmp_path))
    assert namespace_in(path) == "team"
    with pytest.raises(UserError, match=r"metadata.namespace: 'team' given, and --namespace other"):
        read_manifest(path, CHOICE, "other")


@pytest.mark.parametrize(("text", "meant"), [("4", (None, 4)), ("2:8", (2, 8))])
def test_numbers_of_nodes(text: str, meant: tuple[int | None, int]) -> None:
    assert parse_nodes(text) == meant


@pytest.mark.parametrize("text", ["", "0", "a", "2:", ":3", "-1", "1:2:3"])
def test_what_is_no_number_of_nodes_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="should be a number of nodes, or MIN:MAX"):
        parse_nodes(text)


@pytest.mark.parametrize(("text", "message"), [("[1]", "should be one ElasticJob"), ("a: [", "is not YAML")])
def test_a_file_that_is_neither_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_manifest(path, CHOICE, "team")

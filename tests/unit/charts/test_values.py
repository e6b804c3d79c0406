"""Wrong values are refused with their names; the schema and the README know exactly the values there are."""

import json
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from charts.readme import readme, values_of

from harness.chart import CHART, ROOT, helm

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
VALUES_TEXT = (CHART / "values.yaml").read_text(encoding="utf-8")
# As Kubernetes has them; values.yaml shows no more than some of what they may hold.
OPEN_MAPPINGS = {"affinity", "resources", "etcd.resources"}


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    return SCHEMA["definitions"][reference.rpartition("/")[2]] if reference else schema


def described(schema: dict[str, Any], above: str = "") -> Iterator[str]:
    """Paths of all values that the schema knows."""
    for name, below in resolved(schema).get("properties", {}).items():
        path = f"{above}{name}"
        if path not in OPEN_MAPPINGS and resolved(below).get("properties"):
            yield from described(below, f"{path}.")
        else:
            yield path


def mappings(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if "properties" in schema and isinstance(schema["properties"], dict):
            yield schema
        for below in schema.values():
            yield from mappings(below)


def test_the_schema_knows_exactly_the_values_there_are() -> None:
    closed = {path for path in OPEN_MAPPINGS if path != "affinity"}
    there = {value.path for value in values_of(VALUES_TEXT)}
    there = {next((name for name in closed if path.startswith(f"{name}.")), path) for path in there}
    # Helm itself gives every chart `global`.
    assert set(described(SCHEMA)) - {"global"} == there


def test_the_schema_lets_no_unknown_name_through() -> None:
    assert [schema for schema in mappings(SCHEMA) if schema.get("additionalProperties") is not False] == []


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ("replica=2", "replica"),
        ("replicas=two", "replicas"),
        ("replicas=0", "replicas"),
        ("image.tag=latest", "image.tag"),
        ("image.tag=a b", "image.tag"),
        ("image.repository=Holdfast", "image.repository"),
        ("image.digest=sha256:abc", "image.digest"),
        ("image.pullPolicy=Sometimes", "image.pullPolicy"),
        ("image.name=x", "name"),
        ("imagePullSecrets={a}", "imagePullSecrets.0"),
        ("nameOverride=Big", "nameOverride"),
        ("commonLabels.a=1", "commonLabels.a"),
        ("crds.install=maybe", "crds.install"),
        ("watchNamespace=Team", "watchNamespace"),
        ("watchNamespace={a}", "watchNamespace"),
        ("podDisruptionBudget.minAvailable=0", "podDisruptionBudget.minAvailable"),
        ("podDisruptionBudget.minAvailable=2", "podDisruptionBudget.minAvailable"),
        ("operator.workers=0", "operator.workers"),
        ("operator.port=80", "operator.port"),
        ("operator.port=70000", "operator.port"),
        ("operator.leaseSeconds=0", "operator.leaseSeconds"),
        ("operator.logLevel=trace", "operator.logLevel"),
        ("operator.extraEnv[0].nam=x", "operator.extraEnv.0"),
        ("resources.limits.memory=lots", "resources.limits.memory"),
        ("resources.limit.memory=1Gi", "limit"),
        ("tolerations[0].effect=Never", "tolerations.0.effect"),
        ("topologySpreadConstraints[0].maxSkew=0", "topologySpreadConstraints.0"),
        ("metrics.serviceMonitor.interval=often", "metrics.serviceMonitor.interval"),
        ("metrics.service=false,metrics.serviceMonitor.enabled=true", "metrics.serviceMonitor.enabled"),
        ("networkPolicy.apiServerPorts={}", "networkPolicy.apiServerPorts"),
        ("networkPolicy.apiServerCidrs={10.0.0.1}", "networkPolicy.apiServerCidrs.0"),
        ("networkPolicy.jobs[0].job=gpt", "namespace"),
        ("etcd.replicas=2", "etcd.replicas"),
        ("etcd.enabled=true,etcd.replicas=3", "etcd.replicas"),
        ("etcd.image.tag=", "etcd.image.tag"),
        ("etcd.compactionRetention=soon", "etcd.compactionRetention"),
        ("etcd.quotaBackendBytes=1", "etcd.quotaBackendBytes"),
        ("etcd.persistence.size=4 GB", "etcd.persistence.size"),
        ("etcd.auth.prefix=", "etcd.auth.prefix"),
        ("test.image=holdfast-worker", "test.image"),
        ("test.image=holdfast-worker:latest", "test.image"),
        ("test.endpoints={https://etcd}", "test.endpoints.0"),
        ("test.timeout=1", "test.timeout"),
        ("serviceAccount.create=false", "serviceAccount.name"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(arguments: str, field: str) -> None:
    answer = helm("template", "holdfast", str(CHART), "--set", arguments)
    assert answer.returncode != 0, f"{arguments} was taken"
    assert field in answer.stderr


def test_the_readme_says_what_the_values_say() -> None:
    text = (CHART / "README.md").read_text(encoding="utf-8")
    assert readme(text, VALUES_TEXT) == text, "run `python charts/readme.py`"


def test_a_value_without_a_comment_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"line 4: a\.c has no comment"):
        list(values_of("a:\n  # what b is for\n  b: 1\n  c: 2\n"))


def test_the_chart_has_the_version_of_the_distribution() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert (about["version"], about["appVersion"]) == (version, version)
    assert yaml.safe_load(VALUES_TEXT)["test"]["image"] == f"holdfast-worker:{version}"
